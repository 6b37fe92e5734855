"""From x_T to x_0 step by step: what all samplers of samplers.py share."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import numpy as np

from minddpm import backend, random
from minddpm.backend import Array
from minddpm.diffusion.gaussian import GaussianDiffusion
from minddpm.diffusion.process import Model
from minddpm.diffusion.schedules import log_snr_timesteps, timesteps
from minddpm.errors import InputError

Noise = Callable[[int], Array]  # index of the step, 0 first -> standard normal [N, H, W, C]


class Step(NamedTuple):
    """x after the step and the picture seen on the way, [N, H, W, C], and the t that was left."""

    x: Array
    pred_x0: Array
    t: int


def shorten(diffusion: GaussianDiffusion, steps: int | None, spacing: str) -> GaussianDiffusion:
    """The process as seen by a sampler of so many steps; None: all of them.

    spacing: of timesteps(), or log_snr, which depends on the schedule, too.
    """
    if steps is None:
        return diffusion
    if spacing == "log_snr":
        return diffusion.respaced(log_snr_timesteps(diffusion.alphas_cumprod, steps))
    return diffusion.respaced(timesteps(diffusion.T, steps, spacing))


def start(shape: tuple[int, ...], seed: int, first: int, x_T: Array | None) -> Array:
    """x_T: pure noise from the seed's stream, or the one that is given."""
    if x_T is None:
        return random.normal(shape, seed, random.X_T, first=first)
    x = backend.xp.asarray(x_T)
    if x.shape != tuple(shape):
        raise InputError(f"x_T has shape {x.shape}, the pictures {tuple(shape)}: make them equal.")
    return x


def walk(
    diffusion: GaussianDiffusion,
    model: Model,
    shape: tuple[int, ...],
    tables: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None],
    stream: tuple[int, int],
    x_T: Array | None,
    noise: Noise | None,
    replay: bool = False,
    before: np.ndarray | None = None,
) -> Iterator[Step]:
    """x_{t-1} = k0 pred_x0 + kx x_t + ko output + sigma z for t = T-1 .. 0; tables of k0, kx, ko, sigma.

    Every linear sampler is this loop with its own four tables. sigma None: the model's own.
    before: a fifth one, of factors of the pred_x0 of the step before.
    """  # noqa: E501
    px, po = diffusion.x0_coefficients()
    k0, kx, ko, sigma = tables
    seed, first = random.check_seed(stream[0]), stream[1]
    x = start(shape, seed, first, x_T)
    run = _Prediction(diffusion, model)
    noise = None if noise is None else partial(_given, noise, x.shape)
    drawn = noise or partial(random.normal, x.shape, seed, random.SAMPLE, first=first)
    if sigma is None:
        sigma = np.append(0.0, np.ones(diffusion.T - 1))  # of a noise that is scaled already
        noise = partial(run.scaled, drawn)
    last: list[Array] = []  # the pred_x0 of the step before
    if before is not None:
        noise = partial(_sum, last, before[::-1].tolist(), sigma[::-1].tolist(), drawn)
        sigma = ((before != 0) | (sigma != 0)).astype(float)  # of a sum that is weighed already
    steps = backend.kernels.denoise(
        run,
        x,
        timesteps=diffusion.timestep_map[::-1],
        coefficients=np.stack((px, po, k0, kx, ko, sigma), axis=1)[::-1],
        clip=diffusion.clip_x0,
        stream=(seed, random.SAMPLE, first),
        noise=noise,
        replay=replay and diffusion.variance != "learned_range",
    )
    for t, (x, pred_x0) in zip(reversed(diffusion.timestep_map), steps, strict=True):
        last[:] = [pred_x0]
        yield Step(x, pred_x0, int(t))


class _Prediction:
    """The model's prediction for (x, t); what it says of the variance is kept for the noise."""

    def __init__(self, diffusion: GaussianDiffusion, model: Model):
        self.diffusion, self.model = diffusion, model

    def __call__(self, x: Array, t: Array) -> Array:
        output = self.diffusion.output(self.model, x, t)
        prediction, self.v = self.diffusion.parts(output, x.shape[-1])
        return backend.xp.ascontiguousarray(prediction)

    def scaled(self, noise: Noise, i: int) -> Array:
        """sigma z of step i, sigma as the model has just learned it to be."""
        t = np.full(len(self.v), self.diffusion.T - 1 - i)
        log_variance = self.diffusion.learned_log_variance(self.v, t)
        return backend.xp.exp(log_variance / 2) * noise(i)


def _sum(last: list[Array], before: list[float], sigma: list[float], noise: Noise, i: int) -> Array:
    """before last + sigma z of step i, without what is multiplied by 0."""
    if not sigma[i]:
        return before[i] * last[0]
    z = sigma[i] * noise(i)
    return z + before[i] * last[0] if before[i] else z


def _given(noise: Noise, shape: tuple[int, ...], i: int) -> Array:
    z = backend.xp.asarray(noise(i))
    if z.shape != shape:
        raise InputError(f"noise({i}) has shape {z.shape}, the pictures {shape}.")
    return z
