"""What all samplers share: which timesteps they visit, x_T, and how they call the model.

Every sampler is a generator with one plain loop that yields a Step for each timestep; the progress
bar, the image grid and the GIF only consume what is yielded. Arguments that all samplers take:

    diffusion, model   the process, and a callable (x_t, t) -> output
    shape              [N, H, W, C] of the images
    steps              how many timesteps; None: all T. Raises InputError outside 1 .. T
    seed               of x_T and of all noise, unless x_T or noise(i) for step i are given
    first              where in the seed's streams to begin, to draw many images in parts
    spacing            which timesteps, if they are fewer than T: a key of SPACINGS, or "log_snr"
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from minddpm import backend, random
from minddpm.autodiff import Tensor, no_grad
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.diffusion.reverse import ReverseProcess
from minddpm.errors import InputError

# How to choose S of the T timesteps, rising from the least noisy one.
SPACINGS: dict[str, Callable[[int, int], np.ndarray]] = {
    # 0, s, 2s, ... with s = T // S: diffusers' default. It may begin far below T-1, where x_T is
    # not yet pure noise: at t = 500 for 501 steps of 1000.
    "leading": lambda T, S: np.arange(S) * (T // S),
    # Rounded even steps from 0 to T-1: improved-diffusion's choice, and our commands' except for
    # DPM-Solver 2M and SDE, which use log_snr_timesteps.
    "linspace": lambda T, S: np.linspace(0, T - 1, S).round(),
    # Even steps back from T-1: it starts where x_T really is pure noise (Lin et al. 2024).
    "trailing": lambda T, S: np.arange(T, 0, -T / S).round()[:S][::-1] - 1,
}
NOTHING_BUT_NOISE = -5.1  # lambda below which x_t tells nothing: DPM-Solver's, for cosine schedules
# index of the step, 0 first -> standard normal [N, H, W, C], or the stream to draw it from
Noise = Callable[[int], Array | random.Stream]


class Step(NamedTuple):
    """x after the step, and the predicted image behind it, [N, H, W, C]; the model's t."""

    x: Array
    pred_x0: Array
    t: int


def reverse_steps(
    d: ReverseProcess, steps: int | None, spacing: str
) -> Iterator[tuple[int, int, float, float]]:
    """Yield (i, t, ac, ac_prev) for i = 0, 1, ... and t falling from T-1.

    ac: alphas_cumprod at t; ac_prev: at the timestep that comes next, 1 after the last one.
    """
    visited = visited_timesteps(d, steps, spacing)
    ac = [1.0, *d.alphas_cumprod[visited].tolist()]
    for i in range(len(visited)):
        yield i, int(visited[-1 - i]), ac[-1 - i], ac[-2 - i]


def visited_timesteps(d: ReverseProcess, steps: int | None, spacing: str) -> np.ndarray:
    """Return the timesteps that a sampler visits, rising int64 [steps]; None: all of them."""
    if spacing == "log_snr" and steps is not None:
        return log_snr_timesteps(d.alphas_cumprod, steps)
    return np.arange(d.T) if steps is None else timesteps(d.T, steps, spacing)


def timesteps(T: int, steps: int, spacing: str = "leading") -> np.ndarray:
    """Return `steps` of the T timesteps, rising int64 [steps]; a single one is T-1, pure noise.

    Raises InputError unless 1 <= steps <= T, and for a spacing that SPACINGS lacks.
    """
    if not isinstance(steps, (int, np.integer)) or not 1 <= steps <= T:
        raise InputError(f"{steps} sampling steps of a model with T = {T}: choose 1 .. {T}.")
    if spacing not in SPACINGS:
        raise InputError(f"unknown spacing {spacing!r}: choose {', '.join(SPACINGS)} or log_snr.")
    return (SPACINGS[spacing](T, steps) if steps > 1 else np.array([T - 1])).astype(np.int64)


def log_snr_timesteps(alphas_cumprod: np.ndarray, steps: int) -> np.ndarray:
    """Return `steps` of the T timesteps, rising int64 [steps], evenly spaced in lambda.

    lambda_t = log(alpha_t / sigma_t) = log(ac / (1 - ac)) / 2, half the logarithm of the
    signal-to-noise ratio. In it DPM-Solver's steps have equal lengths; of 20 steps evenly spaced in
    t, a single one would cover 30%. From lambda_0 down to NOTHING_BUT_NOISE or lambda_{T-1}, each
    time the nearest t that is not taken; T-1, where all noise begins, is the last.
    Raises InputError unless 1 <= steps <= T.
    Source: Lu et al. 2022, "DPM-Solver", where it is called uniform logSNR.
    """
    T = len(alphas_cumprod)
    timesteps(T, steps)  # raises for a wrong number
    ac = np.asarray(alphas_cumprod, np.float64)
    with np.errstate(divide="ignore"):  # for a schedule that ends without any signal
        lambda_ = 0.5 * (np.log(ac) - np.log1p(-ac))
    wanted = np.linspace(max(lambda_[-1], NOTHING_BUT_NOISE), lambda_[0], steps)[::-1]
    visited = np.abs(lambda_ - wanted[:, None]).argmin(axis=1)
    visited[-1] = T - 1
    for i in range(1, steps):  # upwards: no t twice; then downwards: none beyond T-1
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

    model_t: the t that the model gets, for all images. No graph is recorded.
    """
    with no_grad():
        output = model(x, backend.xp.full(len(x), model_t))
    output, C = output.data if isinstance(output, Tensor) else output, x.shape[-1]
    if output.shape != (*x.shape[:-1], C * d.outputs_per_channel):
        raise d.wrong_output(output, x)
    return output[..., :C], output[..., C:] if d.variance == "learned_range" else None


def update(
    d: ReverseProcess, t: int, x_t: Array, prediction: Array, *, of_x0: float, of_x_t: float,
    of_output: float = 0.0, sigma: float | Array = 0.0, z: Array | random.Stream | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Return (x_{t-1}, pred_x0) by one fused kernel.

    pred_x0 = a x_t + b prediction (reverse.py), clipped if d.clip_x0
    x_{t-1} = of_x0 pred_x0 + of_x_t x_t + of_output prediction + sigma z
    sigma: a number, or [N, H, W, C]. z: an array, or the stream from which the kernel draws it.
    """
    if not isinstance(sigma, float):
        z, sigma = sigma * (z.normal(x_t.shape) if isinstance(z, random.Stream) else z), 1.0
    numbers = float(d.pred_x0_coef1[t]), float(d.pred_x0_coef2[t]), of_x0, of_x_t, of_output, sigma
    if isinstance(z, random.Stream):
        return backend.kernels.sampler_step_normal(x_t, prediction, numbers, d.clip_x0, *z)
    z = None if z is None else backend.xp.asarray(z)
    if z is not None and z.shape != x_t.shape:
        raise InputError(f"noise of shape {z.shape} for images {x_t.shape}: make them equal.")
    return backend.kernels.sampler_step(x_t, prediction, z, numbers, d.clip_x0)
