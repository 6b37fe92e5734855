"""From noise to pictures: samplers are generators that yield every step.

    for step in ddim(diffusion, model, (64, 28, 28, 1), steps=50, seed=0):
        step.x, step.pred_x0, step.t

The progress bar, the picture grid and the GIF only consume what is yielded.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from minddpm import backend, random
from minddpm.backend import Array
from minddpm.diffusion.gaussian import GaussianDiffusion, Model
from minddpm.diffusion.schedules import timesteps
from minddpm.errors import InputError

Noise = Callable[[int], Array]  # index of the step, 0 first -> standard normal [N, H, W, C]


class Step(NamedTuple):
    """x after the step and the picture seen on the way, [N, H, W, C], and the t that was left."""

    x: Array
    pred_x0: Array
    t: int


def ddpm(
    diffusion: GaussianDiffusion,
    model: Model,
    shape: tuple[int, ...],
    steps: int | None = None,
    *,
    seed: int = 0,
    first: int = 0,
    x_T: Array | None = None,
    noise: Noise | None = None,
    spacing: str = "leading",
    replay: bool = False,
) -> Iterator[Step]:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), over all T steps or `steps` of them.

    x_{t-1} = mean + sigma_t z, z ~ N(0, I), and no noise at t = 0: that step gives the picture
    itself, and noise would only be seen as noise.

    shape [N, H, W, C]; seed gives x_T and all noise, unless x_T or noise(i) are passed in. first:
    where in the seed's streams to begin, so that many pictures can be made in parts.
    replay: the model does the same for all x and t and reads nothing on the host (as a UNet2D in
    eval mode): a GPU may record a step once and repeat it.
    Raises InputError for steps outside 1 .. T.
    """
    short = _shorten(diffusion, steps, spacing)
    # mean = coef1 pred_x0 + coef2 x_t (equation 7)
    variance, _ = short.model_variance()
    sigma = np.sqrt(variance)
    sigma[0] = 0
    k0, kx, ko = short.posterior_mean_coef1, short.posterior_mean_coef2, np.zeros(short.T)
    return _sample(short, model, shape, (k0, kx, ko, sigma), (seed, first), x_T, noise, replay)


def ddim(
    diffusion: GaussianDiffusion,
    model: Model,
    shape: tuple[int, ...],
    steps: int | None = None,
    *,
    eta: float = 0.0,
    clipped_eps: bool = False,
    seed: int = 0,
    first: int = 0,
    x_T: Array | None = None,
    noise: Noise | None = None,
    spacing: str = "leading",
    replay: bool = False,
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, equation 12): the same model, fewer and less noisy steps.

    x_{t-1} = sqrt(ac_{t-1}) pred_x0 + sqrt(1 - ac_{t-1} - sigma^2) eps + sigma z
    sigma = eta sqrt((1 - ac_{t-1}) / (1 - ac_t)) sqrt(1 - ac_t / ac_{t-1})   (equation 16)
    eta = 0: no noise at all, so the same x_T always gives the same picture. eta = 1: DDPM's
    posterior variance.

    clipped_eps: where pred_x0 was clipped, take the eps that fits the clipped picture (as
    improved-diffusion does) rather than the model's own (diffusers' default, and ours).
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta = {eta}: choose 0 (no noise) .. 1 (as much as DDPM).")
    short = _shorten(diffusion, steps, spacing)
    ac, ac_prev = short.alphas_cumprod, short.alphas_cumprod_prev
    sigma = eta * np.sqrt((1 - ac_prev) / (1 - ac)) * np.sqrt(1 - ac / ac_prev)
    direction = 1 - ac_prev - sigma**2
    assert (direction >= 0).all()  # a negative one means a wrong sigma, not something to clamp
    direction = np.sqrt(direction)
    if clipped_eps:
        # eps = (x_t - sqrt(ac) pred_x0) / sqrt(1 - ac), put into the formula above
        kx, ko = direction / np.sqrt(1 - ac), np.zeros(short.T)
        k0 = np.sqrt(ac_prev) - kx * np.sqrt(ac)
    else:
        ex, eo = short.eps_coefficients()
        k0, kx, ko = np.sqrt(ac_prev), direction * ex, direction * eo
    return _sample(short, model, shape, (k0, kx, ko, sigma), (seed, first), x_T, noise, replay)


def _shorten(diffusion: GaussianDiffusion, steps: int | None, spacing: str) -> GaussianDiffusion:
    if steps is None:
        return diffusion
    return diffusion.respaced(timesteps(diffusion.T, steps, spacing))


def _sample(
    diffusion: GaussianDiffusion,
    model: Model,
    shape: tuple[int, ...],
    tables: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    stream: tuple[int, int],
    x_T: Array | None,
    noise: Noise | None,
    replay: bool,
) -> Iterator[Step]:
    """x_{t-1} = k0 pred_x0 + kx x_t + ko output + sigma z for t = T-1 .. 0; tables of k0, kx, ko, sigma.

    Every sampler of first order is this loop with its own four tables.
    """  # noqa: E501
    px, po = diffusion.x0_coefficients()
    seed, first = random.check_seed(stream[0]), stream[1]
    if x_T is None:
        x = random.normal(shape, seed, random.X_T, first=first)
    else:
        x = backend.xp.asarray(x_T)
    if x.shape != tuple(shape):
        raise InputError(f"x_T has shape {x.shape}, the pictures {tuple(shape)}: make them equal.")
    walk = backend.kernels.denoise(
        partial(diffusion.output, model),
        x,
        timesteps=diffusion.timestep_map[::-1],
        coefficients=np.stack((px, po, *tables), axis=1)[::-1],
        clip=diffusion.clip_x0,
        stream=(seed, random.SAMPLE, first),
        noise=None if noise is None else partial(_given, noise, x.shape),
        replay=replay,
    )
    for t, (x, pred_x0) in zip(reversed(diffusion.timestep_map), walk, strict=True):
        yield Step(x, pred_x0, int(t))


def _given(noise: Noise, shape: tuple[int, ...], i: int) -> Array:
    z = backend.xp.asarray(noise(i))
    if z.shape != shape:
        raise InputError(f"noise({i}) has shape {z.shape}, the pictures {shape}.")
    return z
