"""Shared by all samplers: the timesteps that they visit, x_T, the model's call and the update.

Every sampler is a generator with one plain loop that yields a Step for each timestep; the progress
bar, the image grid and the GIF only consume these. All samplers take these arguments:

    diffusion, model   the process, and a callable (x_t, t) -> output
    shape              [N, H, W, C] of the images
    steps              number of sampling steps, 1 .. T (else InputError); None: T
    seed               seed of x_T and of the noise, unless x_T or noise(i) of step i is passed
    first              offset into the random streams, so that a large batch can be drawn in parts
    spacing            which timesteps, if steps < T: a key of SPACINGS, "log_snr", sections such as
                       "10,15,20" or "ddim25" (respacing.py), or a function (Levels)
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from minddpm import backend, random
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.diffusion.reverse import ReverseProcess, pred_x0_coefficients
from minddpm.diffusion.sampling import respacing
from minddpm.diffusion.schedules import half_log_snr
from minddpm.errors import InputError

# Each returns S of the T timesteps in increasing order.
SPACINGS: dict[str, Callable[[int, int], np.ndarray]] = {
    # 0, s, 2s, ... with s = T // S: diffusers' default. The first sampling step may be far below
    # T-1, where x_t is not yet pure noise: at t = 500 for 501 steps of 1000.
    "leading": lambda T, S: np.arange(S) * (T // S),
    # Evenly spaced from 0 to T-1, rounded: improved-diffusion's choice, and the commands' default
    # except for DPM-Solver 2M and SDE, which use log_snr_timesteps.
    "linspace": lambda T, S: np.linspace(0, T - 1, S).round(),
    # Evenly spaced downwards from T-1, so that sampling starts at pure noise (Lin et al. 2024).
    "trailing": lambda T, S: np.arange(T, 0, -T / S).round()[:S][::-1] - 1,
    # Of S + 1 evenly spaced ones all but the lowest: a consistency model corrects little there.
    "upper": lambda T, S: np.arange(2, S + 2) * (T // (S + 1)) - 1 if S < T else np.arange(T),
}
# lambda (see log_snr_timesteps) below which x_t has practically no signal, as in DPM-Solver
NOTHING_BUT_NOISE = -5.1
# index of the sampling step, from 0 -> standard normal [N, H, W, C], or the stream to draw it from
Noise = Callable[[int], Array | random.Stream]
# (process, steps) -> (t, ac, ac_prev) of each step, as reverse_steps yields them
Levels = Callable[[ReverseProcess, int | None], Iterable[tuple[float, float, float]]]
Spacing = str | Levels


class Step(NamedTuple):
    """x_{t-1} and pred_x0, both [N, H, W, C], and the t that the model was given."""

    x: Array
    pred_x0: Array
    t: int


def reverse_steps(
    d: ReverseProcess, steps: int | None, spacing: Spacing
) -> Iterator[tuple[int, float, float, float]]:
    """Yield (i, t, ac, ac_prev) for i = 0, 1, ... and t falling from T-1; the model gets t.

    ac: alphas_cumprod at t; ac_prev: at the next visited timestep, 1.0 in the last step.
    """
    if callable(spacing):
        levels = spacing(d, steps)
    else:
        visited = visited_timesteps(d, steps, spacing)[::-1]
        ac = [*d.alphas_cumprod[visited].tolist(), 1.0]
        levels = zip(d.timestep_map[visited].tolist(), ac[:-1], ac[1:], strict=True)
    for i, (t, ac_t, ac_prev) in enumerate(levels):
        yield i, t, ac_t, ac_prev


def visited_timesteps(d: ReverseProcess, steps: int | None, spacing: str) -> np.ndarray:
    """Return the timesteps that a sampler visits, increasing, int64 [steps]; all T for None."""
    if respacing.is_respacing(spacing):
        return respacing.section_timesteps(d.T, steps, spacing)
    if spacing == "log_snr":
        return np.arange(d.T) if steps is None else log_snr_timesteps(d.alphas_cumprod, steps)
    return timesteps(d.T, d.T if steps is None else steps, spacing)


def timesteps(T: int, steps: int, spacing: str = "leading") -> np.ndarray:
    """Return `steps` of the T timesteps, increasing, int64 [steps]; steps = 1 gives [T - 1].

    Raises InputError unless 1 <= steps <= T, or if spacing is not a key of SPACINGS.
    """
    if not isinstance(steps, (int, np.integer)) or not 1 <= steps <= T:
        raise InputError(f"{steps} sampling steps of a model with T = {T}: choose 1 .. {T}.")
    if spacing not in SPACINGS:
        raise InputError(f"unknown spacing {spacing!r}: choose {', '.join(SPACINGS)} or log_snr.")
    return (SPACINGS[spacing](T, steps) if steps > 1 else np.array([T - 1])).astype(np.int64)


def log_snr_timesteps(alphas_cumprod: np.ndarray, steps: int) -> np.ndarray:
    """Return `steps` of the T timesteps, increasing, int64 [steps], evenly spaced in lambda.

    lambda_t = log(alpha_t / sigma_t) = log(ac / (1 - ac)) / 2, half the logarithm of the
    signal-to-noise ratio. DPM-Solver's steps then have equal lengths in lambda; with 20 steps
    evenly spaced in t, one step alone would cover 30% of its range. The targets run from lambda_0
    down to max(lambda_{T-1}, NOTHING_BUT_NOISE); each is replaced by the nearest unused t, the last
    by T-1.
    Raises InputError unless 1 <= steps <= T.
    Source: Lu et al. 2022, "DPM-Solver", where it is called uniform logSNR.
    """
    T = len(alphas_cumprod)
    timesteps(T, steps)  # checks steps
    lambda_ = half_log_snr(alphas_cumprod)
    wanted = np.linspace(max(lambda_[-1], NOTHING_BUT_NOISE), lambda_[0], steps)[::-1]
    visited = np.abs(lambda_ - wanted[:, None]).argmin(axis=1)
    visited[-1] = T - 1
    for i in range(1, steps):  # make t strictly increasing; the minimum below keeps it < T
        visited[i] = max(visited[i], visited[i - 1] + 1)
    return np.minimum(visited, np.arange(T - steps, T)).astype(np.int64)


def initial_noise(shape: tuple[int, ...], seed: int, first: int, x_T: Array | None) -> Array:
    """Return x_T: standard normal from the seed's stream, or the given one."""
    if x_T is None:
        return random.normal(shape, seed, random.X_T, first=first)
    random.check_seed(seed)
    x = backend.xp.asarray(x_T)
    if x.shape != tuple(shape):
        raise InputError(f"x_T has shape {x.shape}, the images {tuple(shape)}: make them equal.")
    return x


def predict(
    d: ReverseProcess, model: Model, x: Array, model_t: float
) -> tuple[Array, Array | None]:
    """Return the model's prediction (eps, x0 or v) for x, and its variance channels or None.

    model_t: the timestep passed to the model, the same for all images. No graph is recorded.
    """
    output = d.call(model, x, backend.xp.full(len(x), model_t))
    return d.split(output, x.shape[-1])


def update(
    d: ReverseProcess, ac: float, x_t: Array, prediction: Array, *, k0: float, kx: float,
    ko: float = 0.0, sigma: float | Array = 0.0, z: Array | random.Stream | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Return (x_{t-1}, pred_x0) by one fused kernel, sampler_step of kernels/reference/noise.py.

    ac: alphas_cumprod at t. A d.clip_x0 that is a function is applied before the kernel.
    pred_x0 = px x_t + po prediction (pred_x0_coefficients), clipped if d.clip_x0
    x_{t-1} = k0 pred_x0 + kx x_t + ko prediction + sigma z
    sigma: a number, or [N, H, W, C]. z: an array, or the stream from which the kernel draws it.
    """
    px, po = map(float, pred_x0_coefficients(d.prediction, ac))
    if callable(d.clip_x0):
        pred_x0 = d.limit_x0(px * x_t + po * prediction)
        x_prev, _ = _fused(x_t, pred_x0, (0.0, 1.0, k0, kx, 0.0), sigma, z, clip=False)
        return x_prev + ko * prediction, pred_x0
    return _fused(x_t, prediction, (px, po, k0, kx, ko), sigma, z, d.clip_x0)


def _fused(
    x_t: Array, output: Array, coefficients: tuple[float, ...], sigma: float | Array,
    z: Array | random.Stream | None, clip: bool,
) -> tuple[Array, Array]:  # fmt: skip
    """Run the kernel, with the noise in the form that it takes."""
    if not isinstance(sigma, float):
        z, sigma = sigma * (z.normal(x_t.shape) if isinstance(z, random.Stream) else z), 1.0
    coefficients = *coefficients, sigma
    if isinstance(z, random.Stream):
        return backend.kernels.sampler_step_normal(x_t, output, coefficients, clip, *z)
    z = None if z is None else backend.xp.asarray(z)
    if z is not None and z.shape != x_t.shape:
        raise InputError(f"noise of shape {z.shape} for images {x_t.shape}: make them equal.")
    return backend.kernels.sampler_step(x_t, output, z, coefficients, clip)
