"""Ancestral sampling: Algorithm 2 of Ho et al. 2020."""

from collections.abc import Iterator
from math import log, sqrt

from minddpm import backend
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.diffusion.losses import GaussianDiffusion
from minddpm.diffusion.reverse import interpolate_log_variance
from minddpm.diffusion.sampling.steps import (
    Noise,
    Spacing,
    Step,
    initial_noise,
    predict,
    reverse_steps,
    update,
)
from minddpm.random import SAMPLE, Stream


def ddpm(
    diffusion: GaussianDiffusion, model: Model, shape: tuple[int, ...], steps: int | None = None,
    *, seed: int = 0, first: int = 0, x_T: Array | None = None, noise: Noise | None = None,
    spacing: Spacing = "leading",
) -> Iterator[Step]:  # fmt: skip
    """Sample by x_{t-1} = mean + sigma_t z, z ~ N(0, I), for t = T-1 .. 0, or for `steps` of them.

    Why by way of pred_x0? It can be clipped; unclipped the mean is Algorithm 2's (algorithms.py).
    Why no noise in the last step? Its result is the image, on which noise would only be noise.
    Arguments: sampling/steps.py.
    """
    d, x = diffusion, initial_noise(shape, seed, first, x_T)
    noise = noise or (lambda i: Stream(seed, SAMPLE, i, first))
    for i, t, ac, ac_prev in reverse_steps(d, steps, spacing):
        prediction, v = predict(d, model, x, t)
        beta = 1 - ac / ac_prev  # of this step, which may skip timesteps
        coef1 = sqrt(ac_prev) * beta / (1 - ac)
        coef2 = sqrt(1 - beta) * (1 - ac_prev) / (1 - ac)
        last = ac_prev == 1
        sigma = 0.0 if last else sigma_t(d, beta, beta * (1 - ac_prev) / (1 - ac), v)
        z = noise(i) if ac_prev < 1 else None
        # x_{t-1} = coef1 pred_x0 + coef2 x_t + sigma z    (equation 7; Algorithm 2, line 4)
        x, pred_x0 = update(d, ac, x, prediction, k0=coef1, kx=coef2, sigma=sigma, z=z)
        yield Step(x, pred_x0, int(t))


def sigma_t(
    d: GaussianDiffusion, beta: float, posterior_variance: float, v: Array | None
) -> float | Array:
    """Return the standard deviation of p(x_{t-1} | x_t): fixed_large, fixed_small or learned."""
    if v is not None:
        log_variance = interpolate_log_variance(v, log(posterior_variance), log(beta))
        return backend.xp.exp(log_variance / 2)
    return sqrt(beta if d.variance == "fixed_large" else posterior_variance)
