"""DDIM: Song, Meng, Ermon 2021, "Denoising diffusion implicit models"."""

from collections.abc import Iterator
from math import sqrt

from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.diffusion.losses import GaussianDiffusion
from minddpm.diffusion.reverse import eps_coefficients
from minddpm.diffusion.sampling.steps import (
    Noise,
    Spacing,
    Step,
    initial_noise,
    predict,
    reverse_steps,
    update,
)
from minddpm.errors import InputError
from minddpm.random import SAMPLE, Stream


def ddim(
    diffusion: GaussianDiffusion, model: Model, shape: tuple[int, ...], steps: int | None = None,
    *, eta: float = 0.0, clipped_eps: bool = False, seed: int = 0, first: int = 0,
    x_T: Array | None = None, noise: Noise | None = None, spacing: Spacing = "leading",
) -> Iterator[Step]:  # fmt: skip
    """Sample with the same model as ddpm in fewer and less noisy steps (equation 12).

    x_{t-1} = sqrt(ac_{t-1}) pred_x0 + sqrt(1 - ac_{t-1} - sigma^2) eps + sigma z
    sigma = eta sqrt((1 - ac_{t-1}) / (1 - ac_t)) sqrt(1 - ac_t / ac_{t-1})   (equation 16)

    eta = 0: no noise at all, so the same x_T always gives the same image. eta = 1: the posterior
    variance of DDPM.
    clipped_eps: where pred_x0 was clipped, use the eps that fits the clipped image (as
    improved-diffusion does) rather than the model's own (diffusers' default, and ours).
    Other arguments: sampling/steps.py. Raises InputError for an eta outside 0 .. 1.
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta = {eta}: choose 0 (no noise) .. 1 (as much as DDPM).")
    d, x = diffusion, initial_noise(shape, seed, first, x_T)
    noise = noise or (lambda i: Stream(seed, SAMPLE, i, first))
    for i, t, ac, ac_prev in reverse_steps(d, steps, spacing):
        prediction, _ = predict(d, model, x, t)
        sigma = eta * sqrt((1 - ac_prev) / (1 - ac)) * sqrt(1 - ac / ac_prev)
        # Under the root: a negative number would mean a wrong sigma, and sqrt would raise.
        k_eps = sqrt(1 - ac_prev - sigma**2)
        if clipped_eps:
            # eps = (x_t - sqrt(ac) pred_x0) / sqrt(1 - ac)
            kx, ko = k_eps / sqrt(1 - ac), 0.0
            k0 = sqrt(ac_prev) - kx * sqrt(ac)
        else:
            # eps = eps_coef1 x_t + eps_coef2 output    (reverse.py)
            kx, ko = (k_eps * float(k) for k in eps_coefficients(d.prediction, ac))
            k0 = sqrt(ac_prev)
        z = noise(i) if sigma > 0 else None
        x, pred_x0 = update(d, ac, x, prediction, k0=k0, kx=kx, ko=ko, sigma=sigma, z=z)
        yield Step(x, pred_x0, int(t))
