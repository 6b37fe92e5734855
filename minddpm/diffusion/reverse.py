"""The reverse process p: what a model's output says about the step from x_t to x_{t-1}.

The equations are those of Ho et al. 2020, as in forward.py, unless another paper is named.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minddpm import backend
from minddpm.autodiff import Tensor, no_grad
from minddpm.backend import Array
from minddpm.diffusion.forward import ForwardProcess, Model
from minddpm.errors import InputError

PREDICTIONS = ("epsilon", "x0", "v")
VARIANCES = ("fixed_small", "fixed_large", "learned_range")


Limit = Callable[[Array], Array]  # of images [N, H, W, C]


class Sampling(NamedTuple):
    """A sampler of minddpm.generate, the options for it, and its number of steps if it has one.

    A model distilled into few steps is trained for their timesteps alone: its steps are stored.
    """

    sampler: str
    options: dict[str, Any]
    steps: int | None = None


class ReverseStep(NamedTuple):
    """p(x_{t-1} | x_t), and the predicted image behind the noise."""

    mean: Array
    variance: Array
    log_variance: Array
    pred_x0: Array


def pred_x0_coefficients(prediction: str, ac: Any) -> tuple[Any, Any]:
    """Return (a, b) with pred_x0 = a x_t + b output, for alphas_cumprod ac (a number or table).

    epsilon  x_t = sqrt(ac) x0 + sqrt(1-ac) eps  =>  x0 = x_t / sqrt(ac) - sqrt(1/ac - 1) eps
    x0       the output itself
    v        v = sqrt(ac) eps - sqrt(1-ac) x0    =>  x0 = sqrt(ac) x_t - sqrt(1-ac) v
    """
    if prediction == "epsilon":
        return 1 / np.sqrt(ac), -np.sqrt(1 / ac - 1)
    if prediction == "x0":
        return np.zeros_like(ac), np.ones_like(ac)
    return np.sqrt(ac), -np.sqrt(1 - ac)


def eps_coefficients(prediction: str, ac: Any) -> tuple[Any, Any]:
    """Return (a, b) with eps = a x_t + b output, likewise.

    x0  x_t = sqrt(ac) x0 + sqrt(1-ac) eps  =>  eps = (x_t - sqrt(ac) x0) / sqrt(1-ac)
    v   with x0 from above, and 1 - ac = sqrt(1-ac)^2  =>  eps = sqrt(1-ac) x_t + sqrt(ac) v
    """
    if prediction == "epsilon":
        return np.zeros_like(ac), np.ones_like(ac)
    if prediction == "x0":
        return 1 / np.sqrt(1 - ac), -np.sqrt(ac) / np.sqrt(1 - ac)
    return np.sqrt(1 - ac), np.sqrt(ac)


def interpolate_log_variance(v: Array, smallest: Any, largest: Any) -> Array:
    """Return log Sigma = (v + 1)/2 log beta + (1 - v)/2 log posterior variance.

    largest: log beta; smallest: log posterior variance. v is in about -1 .. 1, which nothing
    enforces. Source: Nichol and Dhariwal 2021, equation 15.
    """
    share = (v + 1) / 2
    return share * largest + (1 - share) * smallest


class ReverseProcess(ForwardProcess):
    """q and p for given betas.

    betas       float64 [T], each in (0, 1)
    prediction  what the model's output is: "epsilon" (the noise), "x0" (the image), or "v"
                (Salimans and Ho 2022: sqrt(ac) eps - sqrt(1 - ac) x0)
    variance    of p: "fixed_small" (the posterior variance), "fixed_large" (betas), or
                "learned_range": between them, by the second half of the model's output channels
    clip_x0     clip the predicted image to [-1, 1] on the way to the mean; or a function that
                limits it in another way (thresholding.py)
    timestep_map  the t that the model gets at each step of a respaced process: int [T]
    """

    def __init__(
        self,
        betas: np.ndarray,
        prediction: str = "epsilon",
        variance: str = "fixed_small",
        clip_x0: bool | Limit = True,
        timestep_map: np.ndarray | None = None,
    ):
        if prediction not in PREDICTIONS:
            raise InputError(f"unknown prediction {prediction!r}: choose {', '.join(PREDICTIONS)}.")
        if variance not in VARIANCES:
            raise InputError(f"unknown variance {variance!r}: choose {', '.join(VARIANCES)}.")
        self.prediction, self.variance, self.clip_x0 = prediction, variance, clip_x0
        # How a saved pipeline samples (scheduler_file.py); None: the caller decides.
        self.sampling: Sampling | None = None
        super().__init__(betas)
        ac = self.alphas_cumprod
        self.pred_x0_coef1, self.pred_x0_coef2 = pred_x0_coefficients(prediction, ac)
        self.eps_coef1, self.eps_coef2 = eps_coefficients(prediction, ac)
        self.timestep_map = np.arange(self.T) if timestep_map is None else np.asarray(timestep_map)
        if len(self.timestep_map) != self.T:
            raise InputError(
                f"timestep_map has {len(self.timestep_map)} entries for {self.T} betas: make the "
                "lengths equal."
            )

    # --- the model's output ----------------------------------------------------------------------

    def model_output(self, model: Model, x_t: Array, t: np.ndarray) -> Array:
        """Return the model's output at step t of this process, as call() does."""
        return self.call(model, x_t, self.model_t(t))

    def call(self, model: Model, x_t: Array, model_t: Array) -> Array:
        """Return model(x_t, model_t) as an array; no graph is recorded. Checks its shape."""
        with no_grad():
            output = model(x_t, model_t)
        self.check_output(output, x_t)
        return output.data if isinstance(output, Tensor) else backend.xp.asarray(output)

    def model_t(self, t: Array) -> Array:
        """Return the t that the model gets at step t of this process."""
        return backend.kernels.take(backend.xp, self.timestep_map, t, "int64")

    def check_output(self, output: Any, x: Array) -> None:
        """Raise InputError unless a model's output has the right shape for images x."""
        # A different number of channels would be broadcast in silence.
        C = x.shape[-1] * (2 if self.variance == "learned_range" else 1)
        if output.shape != (*x.shape[:-1], C):
            raise self._wrong_output(output, x, C)

    def _wrong_output(self, output: Any, x: Array, C: int) -> InputError:
        learned = self.variance == "learned_range"
        also = ", the variance's with them" if learned else ""
        other = "a fixed variance" if learned else "variance learned_range for twice as many"
        return InputError(
            f"the model's output has shape {output.shape} for images {x.shape} where "
            f"{(*x.shape[:-1], C)} is needed: choose a model with {C} output channels{also}, or "
            f"{other}."
        )

    def split(self, output: Any, C: int) -> tuple[Any, Any]:
        """Return the prediction [N, H, W, C] in the model's output, and v (None if not learned)."""
        if self.variance != "learned_range":
            return output, None
        return output[..., :C], output[..., C:]

    def predict_x0(self, x_t: Array, t: Any, output: Array) -> Array:
        """Return the image behind x_t according to the model's output, not clipped."""
        x_t, output = backend.xp.asarray(x_t), backend.xp.asarray(output)
        t = self.check_t(t, len(x_t))
        a, b = self.table(self.pred_x0_coef1, t, x_t), self.table(self.pred_x0_coef2, t, x_t)
        return a * x_t + b * output

    def predict_eps(self, x_t: Array, t: Any, output: Array) -> Array:
        """Return the noise in x_t according to the model's output."""
        x_t, output = backend.xp.asarray(x_t), backend.xp.asarray(output)
        t = self.check_t(t, len(x_t))
        return (
            self.table(self.eps_coef1, t, x_t) * x_t + self.table(self.eps_coef2, t, x_t) * output
        )

    def limit_x0(self, pred_x0: Array) -> Array:
        """Return pred_x0 as clip_x0 limits it."""
        if callable(self.clip_x0):
            return self.clip_x0(pred_x0)
        return pred_x0.clip(-1, 1) if self.clip_x0 else pred_x0

    # --- p ---------------------------------------------------------------------------------------

    def p_mean_variance(self, model: Model, x_t: Array, t: Any) -> ReverseStep:
        """Return p(x_{t-1} | x_t): the posterior of equation 7 with pred_x0 for x_0.

        Algorithm 2 goes straight to mean = (x_t - beta_t / sqrt(1 - ac_t) eps) / sqrt(alpha_t)
        (equation 11). Unclipped both are the same; but early on pred_x0 is often far outside
        [-1, 1], and only this form can clip it before it distorts the mean.
        """
        x_t = backend.xp.asarray(x_t)
        t = self.check_t(t, len(x_t))
        return self.p_from_output(self.model_output(model, x_t, t), x_t, t, self.clip_x0)

    def p_from_output(self, output: Array, x_t: Array, t: np.ndarray, clip: bool) -> ReverseStep:
        """Return p(x_{t-1} | x_t) given the model's output for x_t."""
        prediction, v = self.split(output, x_t.shape[-1])
        pred_x0 = self.predict_x0(x_t, t, prediction)
        if clip:
            pred_x0 = self.limit_x0(pred_x0)
        mean = self.q_posterior_mean_variance(pred_x0, x_t, t).mean
        if v is not None:
            log_variance = self.learned_log_variance(v, t)
            return ReverseStep(mean, backend.xp.exp(log_variance), log_variance, pred_x0)
        variance, log_variance = self.model_variance()
        return ReverseStep(
            mean, self.table(variance, t, x_t), self.table(log_variance, t, x_t), pred_x0
        )

    def log_variance_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Return tables of the smallest and the largest log variance of learned_range.

        They are fixed_small and fixed_large, between which the optimal one lies.
        """
        return self.posterior_log_variance_clipped, np.log(self.betas)

    def learned_log_variance(self, v: Array, t: np.ndarray) -> Array:
        """Return log Sigma at step t, [N, H, W, C], by interpolate_log_variance."""
        smallest, largest = (self.table(table, t, v) for table in self.log_variance_range())
        return interpolate_log_variance(v, smallest, largest)

    def model_variance(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the fixed variance of p and its logarithm, each [T].

        fixed_large is right if x_0 is standard normal, fixed_small if it is a single point (Ho et
        al., 3.2). At few steps fixed_large adds more noise than the last steps can remove: Ho's
        CIFAR-10 model at 20 steps has FID 133 with it, and 6.8 with DDIM (Song et al. 2021).
        Not for learned_range, whose variance no table holds.
        """
        if self.variance == "fixed_large":
            return self.fixed_large_variance, np.log(self.fixed_large_variance)
        return self.posterior_variance, self.posterior_log_variance_clipped

    # --- fewer steps -----------------------------------------------------------------------------

    def respaced(self, timesteps: np.ndarray) -> "ReverseProcess":
        """Return the same process at these timesteps only (rising, each 0 .. T-1), a shorter one.

        alphas_cumprod keeps its values at them, so the new betas are 1 - ac_t / ac_{previous t}:
        every formula of this class then holds for the strided process without a change, and the
        model still gets the t that it was trained with (Nichol and Dhariwal 2021, section 4).
        """
        timesteps = self.check_t(timesteps, len(timesteps))
        if not (np.diff(timesteps) > 0).all():
            raise InputError("the timesteps to keep must rise, each one once.")
        ac = self.alphas_cumprod[timesteps]
        betas = 1 - ac / np.append(1.0, ac[:-1])
        return type(self)(
            betas, self.prediction, self.variance, self.clip_x0, self.timestep_map[timesteps]
        )
