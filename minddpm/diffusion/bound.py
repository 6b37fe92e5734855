"""The variational bound of Ho et al. 2020 (equation 5), in bits for each dimension of an image.

    -log p(x0) <= L_T + L_{T-1} + ... + L_1 + L_0    (the lecture slides give L_0 the wrong sign)

    L_T  KL( q(x_T | x0) || N(0, I) ): no parameter; how much of x0 is left in x_T
    L_t  KL( q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t) ), t = T-1 .. 1, 0-based: the paper's L_{t-1}
    L_0  -log p(x0 | x_1), by the decoder of decoder.py, at t = 0

Each is a mean over the H W C dimensions of an image, divided by log 2. Everything is computed in
float64: the KL divides the difference of two means of order 1 by sigma, and sigma^2 can be 1e-4
or smaller.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from minddpm import backend, random
from minddpm.autodiff import Function
from minddpm.backend import Array, array_module
from minddpm.diffusion import decoder
from minddpm.diffusion.forward import Model, floating
from minddpm.diffusion.reverse import ReverseProcess
from minddpm.errors import InputError
from minddpm.progress_bar import tqdm


class BoundTerms(NamedTuple):
    """L_t in bits/dim, float64 [N], and the predicted image behind x_t."""

    terms: Array
    pred_x0: Array


class Bound(NamedTuple):
    """The bound of each image in bits/dim, float64 on the host: total [N] = prior + sum of terms.

    prior [N]: L_T. terms [N, T]: L_0, L_1, ... L_{T-1}.
    """

    total: np.ndarray
    prior: np.ndarray
    terms: np.ndarray


class BoundEstimate(NamedTuple):
    """An unbiased estimate from a few t of each image, in bits/dim, float64 on the host.

    total [N] = prior + decoder + the mean of the drawn L_t / p_t, t = 1 .. T - 1 (`draw_chances`).
    t [N, k]: which were drawn; terms [N, k]: their L_t; decoder [N]: L_0. standard_error:
    of total.mean(), from the random t and the choice of images.
    """

    total: np.ndarray
    prior: np.ndarray
    decoder: np.ndarray
    terms: np.ndarray
    t: np.ndarray
    standard_error: float


def normal_kl(mean1: Array, log_variance1: Array, mean2: Array, log_variance2: Array) -> Array:
    """Return KL( N(mean1, e^log_variance1) || N(mean2, e^log_variance2) ) of each pixel, in nats.

    KL = (e^d - 1 - d + (mean1 - mean2)^2 / e^log_variance2) / 2, d = log_variance1 - log_variance2
    """
    xp = array_module(mean1)
    d = log_variance1 - log_variance2
    return (xp.expm1(d) - d + (mean1 - mean2) ** 2 * xp.exp(-log_variance2)) / 2


def normal_kl_gradients(
    mean1: Array, log_variance1: Array, mean2: Array, log_variance2: Array
) -> tuple[Array, Array]:
    """Return dKL / dmean2 and dKL / dlog_variance2.

    dKL/dmean2 = (mean2 - mean1) / e^log_variance2
    dKL/dlog_variance2 = (1 - e^d - (mean1 - mean2)^2 / e^log_variance2) / 2
    """
    xp = array_module(mean1)
    apart = (mean2 - mean1) * xp.exp(-log_variance2)
    d = log_variance1 - log_variance2
    return apart, -(xp.expm1(d) + (mean2 - mean1) * apart) / 2


def bits(nats: Array) -> Array:
    """Return the mean over the dimensions of each image, in bits: [N, ...] -> [N]."""
    return nats.mean(axis=tuple(range(1, nats.ndim))) / math.log(2)


class _Step:
    """One term of the bound: the posterior against p, or x0 against p where t = 0.

    p comes from the model's output; all arrays become float64.
    """

    def __init__(
        self, diffusion: ReverseProcess, output: Array, x0: Array, x_t: Array, t: np.ndarray,
        clip: bool,
    ):  # fmt: skip
        output, x0, x_t = (a.astype("float64") for a in (output, x0, x_t))
        self.x0, self.t = x0, t
        self.p = diffusion.p_from_output(output, x_t, t, clip)
        self.q = diffusion.q_posterior_mean_variance(x0, x_t, t)

    def nats(self) -> Array:
        """Return the term of each pixel."""
        nats = normal_kl(self.q.mean, self.q.log_variance, self.p.mean, self.p.log_variance)
        if len(rows := self._rows()):
            nats[rows] = -decoder.log_likelihood(*self._decoded(rows))
        return nats

    def gradients(self) -> tuple[Array, Array]:
        """Return the gradients with respect to the mean and the log variance of p."""
        by_mean, by_log_variance = normal_kl_gradients(
            self.q.mean, self.q.log_variance, self.p.mean, self.p.log_variance
        )
        if len(rows := self._rows()):
            mean, log_sigma = decoder.log_likelihood_gradients(*self._decoded(rows))
            by_mean[rows], by_log_variance[rows] = -mean, -log_sigma / 2
        return by_mean, by_log_variance

    def _rows(self) -> Array:
        """Return the indices of the images with t = 0."""
        return array_module(self.x0).asarray(np.flatnonzero(backend.to_numpy(self.t) == 0))

    def _decoded(self, rows: Array) -> tuple[Array, Array, Array]:
        spread = array_module(self.x0).broadcast_to(self.p.log_variance, self.x0.shape)
        return self.x0[rows], self.p.mean[rows], spread[rows] / 2  # log sigma


class BoundTerm(Function):
    """Map the model's output to L_t: [N, H, W, C or 2 C] -> bits/dim [N].

    The predicted image is clipped as in the bound, and the gradient of a clipped pixel is that at
    the border, not 0: the pixel can return if it is wrong. If x0 is the border itself, as in the
    black four fifths of a digit, that gradient is 0 for t > 0, and any output beyond it is as good.
    So the model need not meet -1 to a fraction of sigma_t, which falls below a grey level. (The
    decoder's gradient, at t = 0, points on beyond the border, where nothing is gained or lost.)
    fixed_mean: the gradient flows through the variance only, and nothing is clipped (L_hybrid of
    Nichol and Dhariwal 2021, and their code).
    """

    def __init__(
        self, diffusion: ReverseProcess, x0: Array, x_t: Array, t: np.ndarray, fixed_mean: bool
    ):
        self.diffusion, self.t, self.fixed_mean = diffusion, t, fixed_mean
        self.x0, self.x_t = x0, x_t

    def forward(self, output: Array) -> Array:
        clip = False if self.fixed_mean else self.diffusion.clip_x0
        self.step = _Step(self.diffusion, output, self.x0, self.x_t, self.t, clip)
        self.shape, self.dtype = output.shape, output.dtype
        return bits(self.step.nats()).astype(output.dtype)

    def backward(self, gy: Array) -> tuple[Array]:
        xp, d, x0 = array_module(gy), self.diffusion, self.step.x0
        C = x0.shape[-1]
        by_mean, by_log_variance = self.step.gradients()
        dimensions = math.prod(x0.shape[1:])
        gy = gy.astype("float64").reshape(-1, *(1,) * (x0.ndim - 1))
        gy = gy / (dimensions * math.log(2))
        gx = xp.zeros(self.shape, "float64")
        if not self.fixed_mean:
            # mean = posterior_coef1 pred_x0 + ..., pred_x0 = ... + pred_x0_coef2 output
            by_output = d.posterior_mean_coef1 * d.pred_x0_coef2
            gx[..., :C] = gy * by_mean * d.table(by_output, self.t, x0)
        if self.shape[-1] > C:
            # log variance = (v + 1) / 2 largest + (1 - v) / 2 smallest
            smallest, largest = d.log_variance_range()
            by_v = d.table((largest - smallest) / 2, self.t, x0)
            gx[..., C:] = gy * by_log_variance * by_v
        return (gx.astype(self.dtype),)


def draw_chances(T: int) -> np.ndarray:
    """Return p_t, the probability of drawing each t = 1 .. T - 1 for an estimate, float64 [T - 1].

    Half of the probability is uniform, half falls as 1 / t: the first terms are by far the largest,
    and vary most between images. Any p is unbiased; this one needs far fewer draws than uniform.
    """
    falling = 1 / np.arange(1, T)
    return (1 / (T - 1) + falling / falling.sum()) / 2


def strata(T: int, k: int, count: int, seed: int, first: int) -> np.ndarray:
    """Draw k timesteps per image, int64 [count, k]: one from each of k equally probable parts."""
    draws = random.bits((first + count) * k, seed, random.BOUND)[first * k :].reshape(count, k)
    below = np.cumsum(draw_chances(T))
    return 1 + np.searchsorted(below[:-1], (np.arange(k) + draws * 2.0**-32) / k, side="right")


class VariationalBound(ReverseProcess):
    """The bound as methods of the process: its terms, the exact sum, and an unbiased estimate."""

    def vb_terms_bpd(self, model: Model, x0: Array, x_t: Array, t: Any) -> BoundTerms:
        """Return L_t of each image in bits/dim (equation 5).

        x0 in [-1, 1], of 256 levels; x_t of q(x_t | x0) [N, H, W, C]; t int [N].
        """
        step = self._step(model, x0, x_t, t)
        return BoundTerms(bits(step.nats()), step.p.pred_x0)

    def vb_terms_of_pixels(self, model: Model, x0: Array, x_t: Array, t: Any) -> Array:
        """Return the share of each pixel in L_t, in bits, float64 [N, H, W, C]: see vb_terms_bpd.

        Its mean over the pixels of an image is L_t in bits/dim.
        """
        return self._step(model, x0, x_t, t).nats() / math.log(2)

    def _step(self, model: Model, x0: Array, x_t: Array, t: Any) -> _Step:
        x0, x_t = floating(x0), floating(x_t)
        t = self.check_t(t, len(x0))
        return _Step(self, self.model_output(model, x_t, t), x0, x_t, t, self.clip_x0)

    def bits_per_dim(
        self, model: Model, x0: Array, seed: int = 0, first: int = 0, progress: bool = False
    ) -> Bound:
        """Return the whole bound on -log p(x0) of each image, in bits/dim: T runs of the model.

        x0 [N, H, W, C] in [-1, 1], of 256 levels. The noise of image i depends on (seed, first + i)
        alone, so that many images can be processed in parts. progress: show a bar.
        """
        x0, T = floating(x0), self.T
        terms = np.empty((len(x0), T))
        for t in tqdm(reversed(range(T)), total=T, unit="step", disable=not progress):
            terms[:, t] = self._drawn_terms(model, x0, np.full(len(x0), t), seed, t, first)
        L_T = self.prior_bpd(x0)
        return Bound(L_T + terms.sum(axis=1), L_T, terms)

    def estimate_bits_per_dim(
        self, model: Model, x0: Array, k: int, seed: int = 0, first: int = 0
    ) -> BoundEstimate:
        """Return an unbiased estimate of bits_per_dim from L_0 and k of the other T - 1 terms.

        This takes k + 1 runs of the model; the timesteps are drawn for each image separately.
        Raises InputError for k outside 1 .. T - 1.
        """
        if not 1 <= k < self.T:
            raise InputError(f"k = {k} drawn timesteps: choose 1 .. {self.T - 1}.")
        x0 = floating(x0)
        N, seed = len(x0), random.check_seed(seed)
        t = strata(self.T, k, N, seed, first)
        drawn = [self._drawn_terms(model, x0, t[:, j], seed, 1 + j, first) for j in range(k)]
        terms, L_T = np.stack(drawn, axis=1), self.prior_bpd(x0)
        L_0 = self._drawn_terms(model, x0, np.zeros(N, np.int64), seed, 0, first)
        total = L_T + L_0 + (terms / draw_chances(self.T)[t - 1]).mean(axis=1)
        error = total.std(ddof=1) / math.sqrt(N) if N > 1 else math.inf
        return BoundEstimate(total, L_T, L_0, terms, t, float(error))

    def prior_bpd(self, x0: Array) -> np.ndarray:
        """Return L_T in bits/dim, float64 [N] on the host."""
        x0 = x0.astype("float64")
        q = self.q_mean_variance(x0, np.full(len(x0), self.T - 1))
        zero = array_module(x0).zeros_like(x0)
        return backend.to_numpy(bits(normal_kl(q.mean, q.log_variance, zero, zero)))

    def _drawn_terms(
        self, model: Model, x0: Array, t: np.ndarray, seed: int, draw: int, first: int
    ) -> np.ndarray:
        """Return the terms at t for one draw of x_t, float64 [N] on the host."""
        noise = random.normal(x0.shape, seed, random.BOUND, draw, first * math.prod(x0.shape[1:]))
        x_t = self.q_sample(x0, t, noise.astype(x0.dtype))
        return backend.to_numpy(self.vb_terms_bpd(model, x0, x_t, t).terms)
