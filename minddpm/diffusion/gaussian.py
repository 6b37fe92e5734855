"""The learned reverse step p, the losses that teach it, and the bound that judges it.

The equations are those of Ho et al. 2020, as in process.py, unless another paper is named.
"""

from typing import Any, NamedTuple

import numpy as np

from minddpm import backend
from minddpm.autodiff import Tensor, no_grad
from minddpm.backend import Array
from minddpm.diffusion import bound
from minddpm.diffusion.process import ForwardProcess, Model, check_noise, floating
from minddpm.errors import InputError

PREDICTIONS = ("epsilon", "x0", "v")
VARIANCES = ("fixed_small", "fixed_large", "learned_range")
LOSSES = ("simple", "vlb", "hybrid")


class ReverseStep(NamedTuple):
    """p(x_{t-1} | x_t), and the picture that the model sees behind the noise."""

    mean: Array
    variance: Array
    log_variance: Array
    pred_x0: Array


class GaussianDiffusion(ForwardProcess):
    """q and p for given betas.

    betas       float64 [T], each in (0, 1)
    prediction  what the model's output is: "epsilon" (the noise), "x0" (the picture), or "v"
                (Salimans and Ho 2022: sqrt(ac) eps - sqrt(1 - ac) x0)
    variance    of p: "fixed_small" (the posterior variance), "fixed_large" (betas), or
                "learned_range": between them, by the second half of the model's output channels
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
            raise InputError(f"unknown variance {variance!r}: choose {', '.join(VARIANCES)}.")
        self.prediction, self.variance, self.clip_x0 = prediction, variance, clip_x0
        super().__init__(betas)
        self.timestep_map = np.arange(self.T) if timestep_map is None else np.asarray(timestep_map)
        if len(self.timestep_map) != self.T:
            raise InputError(
                f"timestep_map has {len(self.timestep_map)} entries for {self.T} betas: equal them."
            )

    # --- reverse process -------------------------------------------------------------------------

    def x0_coefficients(self, ac: Any = None) -> tuple[Any, Any]:
        """(px, po) with x0 = px x_t + po output: every prediction is linear.

        epsilon  x_t = sqrt(ac) x0 + sqrt(1-ac) eps  =>  x0 = x_t / sqrt(ac) - sqrt(1/ac - 1) eps
        x0       the output itself
        v        v = sqrt(ac) eps - sqrt(1-ac) x0    =>  x0 = sqrt(ac) x_t - sqrt(1-ac) v

        ac: where; None: at alphas_cumprod, as tables [T].
        """
        ac = self.alphas_cumprod if ac is None else ac
        if self.prediction == "epsilon":
            return 1 / np.sqrt(ac), -np.sqrt(1 / ac - 1)
        if self.prediction == "x0":
            return np.zeros_like(ac), np.ones_like(ac)
        return np.sqrt(ac), -np.sqrt(1 - ac)

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
        return self.table(px, t, x_t) * x_t + self.table(po, t, x_t) * output

    def predict_eps(self, x_t: Array, t: Any, output: Array) -> Array:
        """The noise in x_t according to the model's output."""
        x_t, output = backend.xp.asarray(x_t), backend.xp.asarray(output)
        t = self.check_t(t, len(x_t))
        ex, eo = self.eps_coefficients()
        return self.table(ex, t, x_t) * x_t + self.table(eo, t, x_t) * output

    def p_mean_variance(self, model: Model, x_t: Array, t: Any) -> ReverseStep:
        """p(x_{t-1} | x_t): the posterior of equation 7 with the predicted picture for x_0.

        Algorithm 2 goes straight to mean = (x_t - beta_t / sqrt(1 - ac_t) eps) / sqrt(alpha_t)
        (equation 11). Unclipped both are the same; but early on the predicted picture is often far
        outside [-1, 1], and only this form can clip it before it leads the mean astray.
        """
        x_t = backend.xp.asarray(x_t)
        t = self.check_t(t, len(x_t))
        return self.reverse_step(self.run(model, x_t, t), x_t, t, self.clip_x0)

    def reverse_step(self, output: Array, x_t: Array, t: np.ndarray, clip: bool) -> ReverseStep:
        """p(x_{t-1} | x_t) by what the model has put out for x_t."""
        prediction, v = self.parts(output, x_t.shape[-1])
        pred_x0 = self.predict_x0(x_t, t, prediction)
        if clip:
            pred_x0 = pred_x0.clip(-1, 1)
        mean = self.q_posterior_mean_variance(pred_x0, x_t, t).mean
        if v is not None:
            log_variance = self.learned_log_variance(v, t)
            return ReverseStep(mean, backend.xp.exp(log_variance), log_variance, pred_x0)
        variance, log_variance = self.model_variance()
        return ReverseStep(
            mean, self.table(variance, t, x_t), self.table(log_variance, t, x_t), pred_x0
        )

    def parts(self, output: Any, C: int) -> tuple[Any, Any]:
        """The prediction [N, H, W, C] in the model's output, and v; None where none is learned."""
        if self.variance != "learned_range":
            return output, None
        return output[..., :C], output[..., C:]

    def log_variance_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Tables: the logarithms of the smallest and the largest variance of learned_range.

        They are fixed_small and fixed_large, between which the right one lies.
        """
        return self.posterior_log_variance_clipped, np.log(self.betas)

    def learned_log_variance(self, v: Array, t: np.ndarray) -> Array:
        """log Sigma = (v + 1)/2 log beta + (1 - v)/2 log posterior variance, [N, H, W, C].

        Nichol and Dhariwal 2021, equation 15; v in about -1 .. 1, which nothing enforces.
        """
        smallest, largest = (self.table(table, t, v) for table in self.log_variance_range())
        share = (v + 1) / 2
        return share * largest + (1 - share) * smallest

    def model_variance(self) -> tuple[np.ndarray, np.ndarray]:
        """The variance of p and its logarithm, each [T]: upper and lower bound of the right one.

        fixed_large is right if x_0 is standard normal, fixed_small if it is a single point (Ho et
        al., 3.2). At few steps fixed_large adds more noise than the last steps can take away: Ho's
        CIFAR-10 model at 20 steps has FID 133 with it, and 6.8 with DDIM (Song et al. 2021).
        Not for learned_range, whose variance no table holds.
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
        """The loss for each image, Tensor [N].

        simple  mean over pixels of (target - output)^2 (equation 14); the target is the noise, the
                picture or v, as `prediction` says
        vlb     T L_{t-1} (L_0 at t = 0): with t drawn evenly, the bound without L_T, in bits/dim
        hybrid  L_simple + 0.001 L_vlb, which teaches the variance and nothing else: no gradient of
                L_vlb reaches the mean (Nichol and Dhariwal 2021, equation 16). learned_range only.
                Why 0.001: L_vlb is a sum of T terms, L_simple a mean, which it must not drown

        x_t: q_sample(x0, t, noise) where it is there already, as from q_sample_normal.
        Raises InputError for an unknown loss, and for hybrid without a learned variance.
        """
        if loss not in LOSSES:
            raise InputError(f"unknown loss {loss!r}: choose {', '.join(LOSSES)}.")
        if loss == "hybrid" and self.variance != "learned_range":
            raise InputError(
                f"loss hybrid teaches the variance, and {self.variance} is no learned one: choose "
                "variance learned_range, or loss simple or vlb."
            )
        x0, noise = backend.xp.asarray(x0), backend.xp.asarray(noise)
        t = self.check_t(t, len(x0))
        check_noise(noise, x0)
        x_t = self.q_sample(x0, t, noise) if x_t is None else x_t
        output = model(x_t, self._model_t(t))
        self._check_output(output, x0)
        if loss == "vlb":
            return bound.BoundTerm(self, x0, x_t, t, fixed_mean=False)(output) * float(self.T)
        prediction, _ = self.parts(output, x0.shape[-1])
        squares = (prediction - self.target(x0, t, noise)) ** 2
        simple = squares.mean(axis=tuple(range(1, x0.ndim)))
        if loss == "simple":
            return simple
        vlb = bound.BoundTerm(self, x0, x_t, t, fixed_mean=True)(output) * float(self.T)
        return simple + vlb * 0.001

    def target(self, x0: Array, t: Any, noise: Array) -> Array:
        """What the model should put out for x_t made from x0 and noise."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "x0":
            return x0
        a = self.table(self.sqrt_alphas_cumprod, t, x0)
        b = self.table(self.sqrt_one_minus_alphas_cumprod, t, x0)
        return a * noise - b * x0

    # --- the bound -------------------------------------------------------------------------------

    def vb_terms_bpd(self, model: Model, x0: Array, x_t: Array, t: Any) -> bound.BoundTerms:
        """L_{t-1} of each image, or L_0 where t = 0, in bits/dim (bound.py; equation 5).

        x0 in [-1, 1], of 256 levels; x_t of q(x_t | x0) [N, H, W, C]; t int [N].
        """
        x0, x_t = floating(x0), floating(x_t)
        t = self.check_t(t, len(x0))
        return bound.compared(self, self.run(model, x_t, t), x0, x_t, t)

    def bits_per_dim(
        self, model: Model, x0: Array, seed: int = 0, first: int = 0, progress: bool = False
    ) -> bound.Bound:
        """The whole bound on -log p(x0) of each image, in bits/dim: T runs of the model.

        x0 [N, H, W, C] in [-1, 1], of 256 levels. The noise of image i depends on (seed, first + i)
        alone, so that many images can be taken in parts. progress: show a bar.
        """
        return bound.whole(self, model, x0, seed, first, progress)

    def estimate_bits_per_dim(
        self, model: Model, x0: Array, k: int, seed: int = 0, first: int = 0
    ) -> bound.BoundEstimate:
        """An unbiased estimate of bits_per_dim from k of the T - 1 steps, and L_0: k + 1 runs.

        The steps are drawn for each image by itself. Raises InputError for k outside 1 .. T - 1.
        """
        return bound.estimated(self, model, x0, k, seed, first)

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
        self._check_output(output, x_t)
        return output.data if isinstance(output, Tensor) else backend.xp.asarray(output)

    def _model_t(self, t: np.ndarray) -> Array:
        return backend.xp.asarray(self.timestep_map[t])

    def _check_output(self, output: Any, x: Array) -> None:
        # A different number of channels would be broadcast in silence.
        C, learned = x.shape[-1], self.variance == "learned_range"
        wanted = (*x.shape[:-1], 2 * C if learned else C)
        if output.shape != wanted:
            also = ", the variance's with them" if learned else ""
            other = "a fixed variance" if learned else "variance learned_range for twice as many"
            raise InputError(
                f"the model's output has shape {output.shape} for images {x.shape} where {wanted} "
                f"is needed: choose a model with {wanted[-1]} output channels{also}, or {other}."
            )
