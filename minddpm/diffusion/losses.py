"""The training losses L_simple, L_vlb and L_hybrid; GaussianDiffusion, the complete process."""

from typing import Any

from minddpm import backend
from minddpm.autodiff import Tensor, mean_squared_errors
from minddpm.backend import Array
from minddpm.diffusion.bound import BoundTerm, VariationalBound
from minddpm.diffusion.forward import Model, check_noise
from minddpm.errors import InputError

LOSSES = ("simple", "vlb", "hybrid")


class GaussianDiffusion(VariationalBound):
    """q (forward.py), p (reverse.py), the bound (bound.py) and the losses for given betas.

    The arguments are those of ReverseProcess: betas, prediction, variance, clip_x0, timestep_map.
    """

    def training_losses(
        self,
        model: Model,
        x0: Array,
        t: Any,
        noise: Array,
        loss: str = "simple",
        x_t: Array | None = None,
    ) -> Tensor:
        """Return the loss of each image, Tensor [N].

        simple  mean over pixels of (target - output)^2 (equation 14); the target is the noise, the
                image or v, depending on `prediction`
        vlb     T L_t (bound.py): its mean over uniform t is the bound without L_T, in bits/dim
        hybrid  L_simple + 0.001 L_vlb, which trains the variance and nothing else: no gradient of
                L_vlb reaches the mean (Nichol and Dhariwal 2021, equation 16). learned_range only.
                Why 0.001: L_vlb is a sum of T terms and must not drown L_simple, a mean

        x_t: q_sample(x0, t, noise) if it is already known, as from q_sample_normal.
        Raises InputError for an unknown loss, and for hybrid without a learned variance.
        """
        if loss not in LOSSES:
            raise InputError(f"unknown loss {loss!r}: choose {', '.join(LOSSES)}.")
        if loss == "hybrid" and self.variance != "learned_range":
            raise InputError(
                f"loss hybrid trains the variance, but {self.variance} is not a learned one: "
                "choose variance learned_range, or loss simple or vlb."
            )
        x0, noise = backend.xp.asarray(x0), backend.xp.asarray(noise)
        t = self.check_t(t, len(x0))
        check_noise(noise, x0)
        x_t = self.q_sample(x0, t, noise) if x_t is None else x_t
        output = model(x_t, self.model_t(t))
        self.check_output(output, x0)
        if loss == "vlb":
            return BoundTerm(self, x0, x_t, t, fixed_mean=False)(output) * float(self.T)
        prediction, _ = self.split(output, x0.shape[-1])
        # Algorithm 1, line 5: || target - output ||^2, here as a mean over the pixels
        simple = mean_squared_errors(prediction, self.target(x0, t, noise))
        if loss == "simple":
            return simple
        vlb = BoundTerm(self, x0, x_t, t, fixed_mean=True)(output) * float(self.T)
        return simple + vlb * 0.001

    def target(self, x0: Array, t: Any, noise: Array) -> Array:
        """Return the output that the model is trained to give for x_t = q_sample(x0, t, noise)."""
        if self.prediction == "epsilon":
            return noise
        if self.prediction == "x0":
            return x0
        # v = sqrt(ac_t) noise - sqrt(1 - ac_t) x0
        a, b = self.sqrt_alphas_cumprod, -self.sqrt_one_minus_alphas_cumprod
        return self._mix(noise, t, x0, a, b)
