"""The variational bound of Ho et al. 2020 (equation 5), in bits for each dimension of an image.

    -log p(x0) <= L_T + L_{T-1} + ... + L_1 + L_0    (the slides have a slip in the sign of L_0)

    L_T      KL( q(x_T | x0) || N(0, I) ): no parameter; how much of x0 is left in x_T
    L_{t-1}  KL( q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t) ), t = T-1 .. 1 here, where t is 0-based
    L_0      -log p(x0 | x_1), by the decoder of decoder.py, at t = 0

Each is a mean over the H W C dimensions of an image, divided by log 2. All of it is computed in
float64: means that are compared are near 1, what they differ by counts in units of sigma, and
sigma^2 begins at 1e-4 and less.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from minddpm import backend, random
from minddpm.autodiff import Function
from minddpm.backend import Array, array_module
from minddpm.diffusion import decoder
from minddpm.diffusion.process import Model, floating
from minddpm.errors import InputError

if TYPE_CHECKING:
    from minddpm.diffusion.gaussian import GaussianDiffusion


class BoundTerms(NamedTuple):
    """L_{t-1} (L_0 where t = 0) in bits/dim, float64 [N], and the picture behind x_t."""

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
    t [N, k]: which were drawn; terms [N, k]: their L_t; decoder [N]: L_0. standard_error: of the
    mean of total, as a mean over images that were drawn, too.
    """

    total: np.ndarray
    prior: np.ndarray
    decoder: np.ndarray
    terms: np.ndarray
    t: np.ndarray
    standard_error: float


def normal_kl(mean1: Array, log_variance1: Array, mean2: Array, log_variance2: Array) -> Array:
    """KL( N(mean1, e^log_variance1) || N(mean2, e^log_variance2) ) of each pixel, in nats.

    KL = (e^d - 1 - d + (mean1 - mean2)^2 / e^log_variance2) / 2, d = log_variance1 - log_variance2
    """
    xp = array_module(mean1)
    d = log_variance1 - log_variance2
    return (xp.expm1(d) - d + (mean1 - mean2) ** 2 * xp.exp(-log_variance2)) / 2


def normal_kl_gradients(
    mean1: Array, log_variance1: Array, mean2: Array, log_variance2: Array
) -> tuple[Array, Array]:
    """dKL / dmean2 and dKL / dlog_variance2.

    dKL/dmean2 = (mean2 - mean1) / e^log_variance2
    dKL/dlog_variance2 = (1 - e^d - (mean1 - mean2)^2 / e^log_variance2) / 2
    """
    xp = array_module(mean1)
    apart = (mean2 - mean1) * xp.exp(-log_variance2)
    d = log_variance1 - log_variance2
    return apart, -(xp.expm1(d) + (mean2 - mean1) * apart) / 2


def bits(nats: Array) -> Array:
    """The mean over the dimensions of each image, in bits: [N, ...] -> [N]."""
    return nats.mean(axis=tuple(range(1, nats.ndim))) / math.log(2)


class _Step:
    """What a step of the bound compares: the posterior with p, or x0 with p where t = 0.

    p is made of the model's output; all arrays become float64.
    """

    def __init__(
        self, diffusion: "GaussianDiffusion", output: Array, x0: Array, x_t: Array, t: np.ndarray,
        clip: bool,
    ):  # fmt: skip
        output, x0, x_t = (a.astype("float64") for a in (output, x0, x_t))
        self.x0, self.t = x0, t
        self.p = diffusion.reverse_step(output, x_t, t, clip)
        self.q = diffusion.q_posterior_mean_variance(x0, x_t, t)

    def nats(self) -> Array:
        """Of each pixel."""
        nats = normal_kl(self.q.mean, self.q.log_variance, self.p.mean, self.p.log_variance)
        if len(rows := self._rows()):
            nats[rows] = -decoder.log_likelihood(*self._decoded(rows))
        return nats

    def gradients(self) -> tuple[Array, Array]:
        """By the mean and the log-variance of p."""
        by_mean, by_log_variance = normal_kl_gradients(
            self.q.mean, self.q.log_variance, self.p.mean, self.p.log_variance
        )
        if len(rows := self._rows()):
            mean, log_sigma = decoder.log_likelihood_gradients(*self._decoded(rows))
            by_mean[rows], by_log_variance[rows] = -mean, -log_sigma / 2
        return by_mean, by_log_variance

    def _rows(self) -> Array:
        """The images whose step is the last one."""
        return array_module(self.x0).asarray(np.flatnonzero(self.t == 0))

    def _decoded(self, rows: Array) -> tuple[Array, Array, Array]:
        spread = array_module(self.x0).broadcast_to(self.p.log_variance, self.x0.shape)
        return self.x0[rows], self.p.mean[rows], spread[rows] / 2  # log sigma


class BoundTerm(Function):
    """The model's output to L_{t-1}, or L_0 where t = 0: [N, H, W, C or 2 C] -> bits/dim [N].

    The predicted picture is not clipped: where it is, nothing could be learned. fixed_mean: no
    gradient by way of the mean (Nichol and Dhariwal 2021, L_hybrid), only of the variance.
    """

    def __init__(
        self, diffusion: "GaussianDiffusion", x0: Array, x_t: Array, t: np.ndarray, fixed_mean: bool
    ):
        self.diffusion, self.t, self.fixed_mean = diffusion, t, fixed_mean
        self.x0, self.x_t = x0, x_t

    def forward(self, output: Array) -> Array:
        self.step = _Step(self.diffusion, output, self.x0, self.x_t, self.t, clip=False)
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
            # mean = coef1 x0 + coef2 x_t, x0 = px x_t + po output
            by_output = d.posterior_mean_coef1 * d.x0_coefficients()[1]
            gx[..., :C] = gy * by_mean * d.table(by_output, self.t, x0)
        if self.shape[-1] > C:
            # log variance = (v + 1) / 2 largest + (1 - v) / 2 smallest
            smallest, largest = d.log_variance_range()
            by_v = d.table((largest - smallest) / 2, self.t, x0)
            gx[..., C:] = gy * by_log_variance * by_v
        return (gx.astype(self.dtype),)


def compared(
    diffusion: "GaussianDiffusion", output: Array, x0: Array, x_t: Array, t: np.ndarray
) -> BoundTerms:
    """The terms of images x0 by the model's output for x_t, all arrays of the backend."""
    step = _Step(diffusion, output, x0, x_t, t, diffusion.clip_x0)
    return BoundTerms(bits(step.nats()), step.p.pred_x0)


def prior(diffusion: "GaussianDiffusion", x0: Array) -> Array:
    """L_T in bits/dim, float64 [N]."""
    x0 = x0.astype("float64")
    q = diffusion.q_mean_variance(x0, np.full(len(x0), diffusion.T - 1))
    zero = array_module(x0).zeros_like(x0)
    return bits(normal_kl(q.mean, q.log_variance, zero, zero))


def draw_chances(T: int) -> np.ndarray:
    """p_t with which t = 1 .. T - 1 are drawn for an estimate, float64 [T - 1].

    Half of it evenly, half as 1 / t: the first terms are the largest by far, and differ most from
    image to image. Any p is unbiased; this one needs far fewer draws than an even one.
    """
    falling = 1 / np.arange(1, T)
    return (1 / (T - 1) + falling / falling.sum()) / 2


def strata(T: int, k: int, count: int, seed: int, first: int) -> np.ndarray:
    """k of the t = 1 .. T - 1 for each image, int64 [count, k]: one of each k-th of the chances."""
    draws = random.bits((first + count) * k, seed, random.BOUND)[first * k :].reshape(count, k)
    below = np.cumsum(draw_chances(T))
    return 1 + np.searchsorted(below[:-1], (np.arange(k) + draws * 2.0**-32) / k, side="right")


def whole(
    diffusion: "GaussianDiffusion", model: Model, x0: Array, seed: int, first: int, progress: bool
) -> Bound:
    """GaussianDiffusion.bits_per_dim."""
    x0, T = floating(x0), diffusion.T
    terms = np.empty((len(x0), T))
    for t in tqdm(reversed(range(T)), total=T, unit="step", disable=not progress):
        terms[:, t] = _at(diffusion, model, x0, np.full(len(x0), t), seed, t, first)
    L_T = backend.to_numpy(prior(diffusion, x0))
    return Bound(L_T + terms.sum(axis=1), L_T, terms)


def estimated(
    diffusion: "GaussianDiffusion", model: Model, x0: Array, k: int, seed: int, first: int
) -> BoundEstimate:
    """GaussianDiffusion.estimate_bits_per_dim."""
    T = diffusion.T
    if not 1 <= k < T:
        raise InputError(f"{k} steps for an estimate: choose 1 .. {T - 1}.")
    x0 = floating(x0)
    t = strata(T, k, len(x0), random.check_seed(seed), first)
    drawn = [_at(diffusion, model, x0, t[:, j], seed, 1 + j, first) for j in range(k)]
    terms, L_T = np.stack(drawn, axis=1), backend.to_numpy(prior(diffusion, x0))
    L_0 = _at(diffusion, model, x0, np.zeros(len(x0), np.int64), seed, 0, first)
    total = L_T + L_0 + (terms / draw_chances(T)[t - 1]).mean(axis=1)
    error = total.std(ddof=1) / math.sqrt(len(x0)) if len(x0) > 1 else math.inf
    return BoundEstimate(total, L_T, L_0, terms, t, float(error))


def _at(
    diffusion: "GaussianDiffusion", model: Model, x0: Array, t: np.ndarray, seed: int, draw: int,
    first: int,
) -> np.ndarray:  # fmt: skip
    """The terms at t of one draw of x_t, float64 [N] on the host."""
    noise = random.normal(x0.shape, seed, random.BOUND, draw, first * math.prod(x0.shape[1:]))
    x_t = diffusion.q_sample(x0, t, noise.astype(x0.dtype))
    return backend.to_numpy(diffusion.vb_terms_bpd(model, x0, x_t, t).terms)
