"""The diffusion process: noising q, the learned reverse step p, and the loss.

Ho, Jain, Abbeel: "Denoising Diffusion Probabilistic Models" (2020); its equations are named below.
The names of the functions and tables are those of openai/improved-diffusion. The lecture slides
that this project started from write beta-bar for alphas_cumprod and swap its two roles in places;
the formulas here are the paper's.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minddpm import backend, random
from minddpm.autodiff import Tensor, no_grad
from minddpm.backend import Array
from minddpm.diffusion.schedules import check_betas
from minddpm.errors import InputError

Model = Callable[..., Any]  # (x_t, t) -> array or Tensor

PREDICTIONS = ("epsilon", "x0", "v")
VARIANCES = ("fixed_small", "fixed_large")


class Gaussian(NamedTuple):
    """A normal distribution of each pixel; all [N, H, W, C] or broadcastable to it."""

    mean: Array
    variance: Array
    log_variance: Array


class ReverseStep(NamedTuple):
    """p(x_{t-1} | x_t), and the picture that the model sees behind the noise."""

    mean: Array
    variance: Array
    log_variance: Array
    pred_x0: Array


class GaussianDiffusion:
    """q and p for given betas.

    betas       float64 [T], each in (0, 1)
    prediction  what the model's output is: "epsilon" (the noise), "x0" (the picture), or "v"
                (Salimans and Ho 2022: sqrt(ac) eps - sqrt(1 - ac) x0)
    variance    of p: "fixed_small" (the posterior variance) or "fixed_large" (betas)
    clip_x0     clip the predicted picture to [-1, 1] on the way to the mean
    timestep_map  the t that the model is told at each step of a shortened process: int [T]
    """

    def __init__(
        self,
        betas: np.ndarray,
        prediction: str = "epsilon",
        variance: str = "fixed_small",
        clip_x0: bool = True,
        timestep_map: np.ndarray | None = None,
    ):
        if prediction not in PREDICTIONS:
            raise InputError(f"unknown prediction {prediction!r}: choose {', '.join(PREDICTIONS)}.")
        if variance not in VARIANCES:
            raise InputError(f"unknown variance {variance!r}: choose {' or '.join(VARIANCES)}.")
        self.prediction, self.variance, self.clip_x0 = prediction, variance, clip_x0
        self.betas = check_betas(betas)
        self.T = len(self.betas)
        self.timestep_map = np.arange(self.T) if timestep_map is None else np.asarray(timestep_map)
        if len(self.timestep_map) != self.T:
            raise InputError(
                f"timestep_map has {len(self.timestep_map)} entries for {self.T} betas: equal them."
            )

        # Tables, float64 [T]; a value is cast to the type of the image where it is used.
        self.alphas = 1 - self.betas
        self.alphas_cumprod = np.cumprod(self.alphas)
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])  # [0] = 1: no noise yet
        self.sqrt_alphas_cumprod = np.sqrt(self.alphas_cumprod)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - self.alphas_cumprod)

        # q(x_{t-1} | x_t, x_0), equations 6 and 7:
        # variance = beta_t (1 - ac_{t-1}) / (1 - ac_t)
        # mean = coef1 x0 + coef2 x_t, coef1 = sqrt(ac_{t-1}) beta_t / (1 - ac_t),
        #                              coef2 = sqrt(alpha_t) (1 - ac_{t-1}) / (1 - ac_t)
        rest = 1 - self.alphas_cumprod
        self.posterior_variance = self.betas * (1 - self.alphas_cumprod_prev) / rest
        self.posterior_mean_coef1 = np.sqrt(self.alphas_cumprod_prev) * self.betas / rest
        self.posterior_mean_coef2 = np.sqrt(self.alphas) * (1 - self.alphas_cumprod_prev) / rest
        # At t = 0 the posterior is certain: given x_0 there is nothing left to draw, its variance
        # is 0 and its logarithm -infinity. The step at t = 0 adds no noise, so only its logarithm
        # is ever looked at (by the bound), and takes the next one's value.
        first = self.posterior_variance[1] if self.T > 1 else self.betas[0]
        self.posterior_log_variance_clipped = np.log(np.append(first, self.posterior_variance[1:]))
        # fixed_large is beta_t, but at t = 0 the posterior's value of t = 1 as well (Ho et al.'s
        # code): the decoder then has the same width whichever variance was chosen.
        self.fixed_large_variance = np.append(first, self.betas[1:])

    # --- forward process -------------------------------------------------------------------------

    def q_step(self, x_prev: Array, t: Any, noise: Array) -> Array:
        """One step of noising, q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t) (equation 2).

        x_prev, noise [N, H, W, C], t int [N] -> x_t. The slides' sqrt(beta_t) x_{t-1} is a slip:
        the signal shrinks by sqrt(1 - beta_t), so that the variance stays 1.
        """
        return self._mix(x_prev, t, noise, np.sqrt(self.alphas), np.sqrt(self.betas))

    def q_sample(self, x0: Array, t: Any, noise: Array) -> Array:
        """All steps up to t in one: x_t = sqrt(ac_t) x0 + sqrt(1 - ac_t) noise (equation 4).

        x0, noise [N, H, W, C], t int [N] -> x_t. It is the sum of independent normals: each step
        scales the variance that is there by alpha_t and adds beta_t = 1 - alpha_t to it.
        """
        a, b = self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod
        return self._mix(x0, t, noise, a, b)

    def q_sample_normal(
        self, x0: Array, t: Any, seed: int, purpose: int, step: int = 0
    ) -> tuple[Array, Array]:
        """(x_t, noise): q_sample with noise = random.normal(x0.shape, seed, purpose, step).

        The same numbers as by those two calls, in one pass over the images.
        """
        random.check_counter(purpose, step)
        x0 = _floating(x0)
        tables = self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod
        a, b = (self._at(table, self.check_t(t, len(x0)), x0.dtype) for table in tables)
        return backend.kernels.q_sample_normal(x0, a, b, random.check_seed(seed), purpose, step)

    def q_mean_variance(self, x0: Array, t: Any) -> Gaussian:
        """q(x_t | x_0) = N(sqrt(ac_t) x0, 1 - ac_t) (equation 4)."""
        x0 = backend.xp.asarray(x0)
        t = self.check_t(t, len(x0))
        return Gaussian(
            self._image(self.sqrt_alphas_cumprod, t, x0) * x0,
            self._image(1 - self.alphas_cumprod, t, x0),
            self._image(np.log(1 - self.alphas_cumprod), t, x0),
        )

    def q_posterior_mean_variance(self, x0: Array, x_t: Array, t: Any) -> Gaussian:
        """q(x_{t-1} | x_t, x_0), the step back if x_0 were known (equations 6 and 7)."""
        x0, x_t = backend.xp.asarray(x0), backend.xp.asarray(x_t)
        t = self.check_t(t, len(x_t))
        mean = (
            self._image(self.posterior_mean_coef1, t, x_t) * x0
            + self._image(self.posterior_mean_coef2, t, x_t) * x_t
        )
        return Gaussian(
            mean,
            self._image(self.posterior_variance, t, x_t),
            self._image(self.posterior_log_variance_clipped, t, x_t),
        )

    # --- reverse process -------------------------------------------------------------------------

    def x0_coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Tables (px, po), each [T], with x0 = px x_t + po output: every prediction is linear.

        epsilon  x_t = sqrt(ac) x0 + sqrt(1-ac) eps  =>  x0 = x_t / sqrt(ac) - sqrt(1/ac - 1) eps
        x0       the output itself
        v        v = sqrt(ac) eps - sqrt(1-ac) x0    =>  x0 = sqrt(ac) x_t - sqrt(1-ac) v
        """
        if self.prediction == "epsilon":
            return 1 / self.sqrt_alphas_cumprod, -np.sqrt(1 / self.alphas_cumprod - 1)
        if self.prediction == "x0":
            return np.zeros(self.T), np.ones(self.T)
        return self.sqrt_alphas_cumprod, -self.sqrt_one_minus_alphas_cumprod

    def eps_coefficients(self) -> tuple[np.ndarray, np.ndarray]:
        """Tables (ex, eo), each [T], with eps = ex x_t + eo output.

        x0  x_t = sqrt(ac) x0 + sqrt(1-ac) eps  =>  eps = (x_t - sqrt(ac) x0) / sqrt(1-ac)
        v   with x0 from above, and 1 - ac = sqrt(1-ac)^2  =>  eps = sqrt(1-ac) x_t + sqrt(ac) v
        """
        if self.prediction == "epsilon":
            return np.zeros(self.T), np.ones(self.T)
        if self.prediction == "x0":
            b = self.sqrt_one_minus_alphas_cumprod
            return 1 / b, -self.sqrt_alphas_cumprod / b
        return self.sqrt_one_minus_alphas_cumprod, self.sqrt_alphas_cumprod

    def predict_x0(self, x_t: Array, t: Any, output: Array) -> Array:
        """The picture behind x_t according to the model's output, not clipped."""
        x_t, output = backend.xp.asarray(x_t), backend.xp.asarray(output)
        t = self.check_t(t, len(x_t))
        px, po = self.x0_coefficients()
        return self._image(px, t, x_t) * x_t + self._image(po, t, x_t) * output

    def predict_eps(self, x_t: Array, t: Any, output: Array) -> Array:
        """The noise in x_t according to the model's output."""
        x_t, output = backend.xp.asarray(x_t), backend.xp.asarray(output)
        t = self.check_t(t, len(x_t))
        ex, eo = self.eps_coefficients()
        return self._image(ex, t, x_t) * x_t + self._image(eo, t, x_t) * output

    def p_mean_variance(self, model: Model, x_t: Array, t: Any) -> ReverseStep:
        """p(x_{t-1} | x_t): the posterior of equation 7 with the predicted picture for x_0.

        Algorithm 2 goes straight to mean = (x_t - beta_t / sqrt(1 - ac_t) eps) / sqrt(alpha_t)
        (equation 11). Unclipped both are the same; but early on the predicted picture is often far
        outside [-1, 1], and only this form can clip it before it leads the mean astray.
        """
        x_t = backend.xp.asarray(x_t)
        t = self.check_t(t, len(x_t))
        pred_x0 = self.predict_x0(x_t, t, self.run(model, x_t, t))
        if self.clip_x0:
            pred_x0 = pred_x0.clip(-1, 1)
        mean = self.q_posterior_mean_variance(pred_x0, x_t, t).mean
        variance, log_variance = self.model_variance()
        return ReverseStep(
            mean, self._image(variance, t, x_t), self._image(log_variance, t, x_t), pred_x0
        )

    def model_variance(self) -> tuple[np.ndarray, np.ndarray]:
        """The variance of p and its logarithm, each [T]: upper and lower bound of the right one.

        fixed_large is right if x_0 is standard normal, fixed_small if it is a single point (Ho et
        al., 3.2). At few steps fixed_large adds more noise than the last steps can take away: Ho's
        CIFAR-10 model at 20 steps has FID 133 with it, and 6.8 with DDIM (Song et al. 2021).
        """
        if self.variance == "fixed_large":
            return self.fixed_large_variance, np.log(self.fixed_large_variance)
        return self.posterior_variance, self.posterior_log_variance_clipped

    # --- training --------------------------------------------------------------------------------

    def training_losses(
        self,
        model: Model,
        x0: Array,
        t: Any,
        noise: Array,
        loss: str = "simple",
        x_t: Array | None = None,
    ) -> Tensor:
        """L_simple for each image, Tensor [N]: mean over pixels of (target - output)^2 (equation 14).

        The target is the noise, the picture or v, as `prediction` says. x_t: q_sample(x0, t, noise)
        where it is there already, as from q_sample_normal.
        """  # noqa: E501
        if loss != "simple":
            raise InputError(f"unknown loss {loss!r}: choose simple.")
        x0, noise = backend.xp.asarray(x0), backend.xp.asarray(noise)
        t = self.check_t(t, len(x0))
        _check_noise(noise, x0)
        x_t = self.q_sample(x0, t, noise) if x_t is None else x_t
        output = model(x_t, self._model_t(t))
        _check_output(output, x0)
        return ((output - self.target(x0, t, noise)) ** 2).mean(axis=tuple(range(1, x0.ndim)))

    def target(self, x0: Array, t: Any, noise: Array) -> Array:
        """What the model should put out for x_t made from x0 and noise."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "x0":
            return x0
        a = self._image(self.sqrt_alphas_cumprod, t, x0)
        b = self._image(self.sqrt_one_minus_alphas_cumprod, t, x0)
        return a * noise - b * x0

    # --- fewer steps -----------------------------------------------------------------------------

    def respaced(self, timesteps: np.ndarray) -> "GaussianDiffusion":
        """The same process seen only at `timesteps` (rising, each 0 .. T-1), as a shorter schedule.

        The kept alphas_cumprod stay as they are, so the new betas are 1 - ac_t / ac_{previous t}:
        every formula of this class then holds for the strided process without a change, and the
        model is still told the t that it knows (Nichol and Dhariwal 2021, section 4).
        """
        timesteps = self.check_t(timesteps, len(timesteps))
        if not (np.diff(timesteps) > 0).all():
            raise InputError("the timesteps to keep must rise, each one once.")
        kept = self.alphas_cumprod[timesteps]
        betas = 1 - kept / np.append(1.0, kept[:-1])
        return GaussianDiffusion(
            betas, self.prediction, self.variance, self.clip_x0, self.timestep_map[timesteps]
        )

    # --- helpers ---------------------------------------------------------------------------------

    def run(self, model: Model, x_t: Array, t: np.ndarray) -> Array:
        """The model's output at step t of this process, as an array; nothing is recorded."""
        return self.output(model, x_t, self._model_t(t))

    def output(self, model: Model, x_t: Array, model_t: Array) -> Array:
        """The same for the t that the model is told (timestep_map)."""
        with no_grad():
            output = model(x_t, model_t)
        _check_output(output, x_t)
        return output.data if isinstance(output, Tensor) else backend.xp.asarray(output)

    def check_t(self, t: Any, N: int) -> np.ndarray:
        """t on the host, int64 [N]. Raises InputError outside 0 .. T-1 and for a wrong shape."""
        t = np.atleast_1d(backend.to_numpy(t))
        if t.dtype.kind not in "iu" or t.shape != (N,):
            raise InputError(f"t is {t.dtype} {t.shape}: give {N} integers, one for each image.")
        if t.size and (t.min() < 0 or t.max() >= self.T):
            raise InputError(f"t reaches from {t.min()} to {t.max()}: choose 0 .. {self.T - 1}.")
        return t.astype(np.int64)

    def _mix(self, x: Array, t: Any, noise: Array, a: np.ndarray, b: np.ndarray) -> Array:
        """a[t] x + b[t] noise."""
        x, noise = _floating(x), _floating(noise)
        t = self.check_t(t, len(x))
        _check_noise(noise, x)
        return backend.kernels.q_sample(x, noise, self._at(a, t, x.dtype), self._at(b, t, x.dtype))

    def _model_t(self, t: np.ndarray) -> Array:
        return backend.xp.asarray(self.timestep_map[t])

    def _at(self, table: np.ndarray, t: np.ndarray, dtype: Any) -> Array:
        """table[t] on the backend: float64 [T] -> [N]."""
        return backend.xp.asarray(table[t].astype(dtype))

    def _image(self, table: np.ndarray, t: np.ndarray, like: Array) -> Array:
        """table[t] shaped to multiply images: float64 [T] -> [N, 1, 1, 1]."""
        return self._at(table, t, like.dtype).reshape(-1, *(1,) * (like.ndim - 1))


def _floating(x: Any) -> Array:
    """x as an array on the backend. Raises InputError unless it is of floating-point numbers."""
    x = backend.xp.asarray(x)
    if x.dtype.kind != "f":
        raise InputError(
            f"images or noise of {x.dtype}: give floating-point numbers, pixels in [-1, 1]."
        )
    return x


def _check_noise(noise: Array, x: Array) -> None:
    if noise.shape != x.shape:
        raise InputError(f"noise of shape {noise.shape} for images {x.shape}: make it equal.")


def _check_output(output: Any, x: Array) -> None:
    # A different number of channels would be broadcast in silence.
    if output.shape != x.shape:
        raise InputError(
            f"the model's output has shape {output.shape} for images {x.shape}: choose a model "
            "with as many output channels as input channels."
        )
