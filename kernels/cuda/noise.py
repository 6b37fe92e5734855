"""Random numbers by Philox, noised images, and the samplers' step (random.cu, pointwise.cu)."""

from collections.abc import Sequence
from types import ModuleType

import numpy as np

from minddpm.kernels.cuda.launch import blocks, cupy, each, empty
from minddpm.kernels.cuda.recorder import step_at
from minddpm.kernels.float32 import float32_only

STREAM = np.dtype([("step_at", "u8"), ("step", "u8"), ("seed", "u4"), ("purpose", "u4")])


def stream(seed: int, purpose: int, step: int) -> np.ndarray:
    """Return a random stream as the kernels of random.cu take it: a Stream, passed by value."""
    at = step_at(step)
    return np.array([(0 if at is None else at.data.ptr, step, seed, purpose)], STREAM)


def each_four(name: str, n: int, *arguments) -> None:
    """Run a kernel of random.cu on n elements, four for each thread at a time."""
    each("random.cu", name, blocks(n, 4), *arguments)


def _elements(name: str, dtype: str, n: int, seed: int, purpose: int, step: int, first: int):
    """Return elements first .. first + n - 1 of a stream, cut from its blocks of four."""
    start, end = first // 4, (first + n + 3) // 4
    out = cupy().empty(4 * (end - start), dtype)
    if n:
        arguments = out, np.uint64(start), stream(seed, purpose, step), end - start
        each("random.cu", name, end - start, *arguments)
    return out[first - 4 * start : first - 4 * start + n]


def random_bits(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    return _elements("random_bits", "uint32", n, seed, purpose, step, first)


def random_uniform(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    words = random_bits(xp, n, seed, purpose, step, first)
    return (words >> np.uint32(8)).astype("float32") * np.float32(2**-24)


def random_normal(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    return _elements("random_normal", "float32", n, seed, purpose, step, first)


# --- diffusion -----------------------------------------------------------------------------------


@float32_only
def q_sample(x0, noise, a, b):
    (x_t,) = empty(x0.shape)
    each("pointwise.cu", "q_sample", x0.size, x0, noise, a, b, x_t, x0.size // len(x0), x0.size)
    return x_t


@float32_only
def sampler_step(x_t, output, noise, coefficients: Sequence[float], clip: bool):
    x_prev, pred_x0 = empty(x_t.shape, x_t.shape)
    numbers = map(float, coefficients)
    arrays = x_t, output, noise if coefficients[-1] != 0 else None, x_prev, pred_x0
    each("pointwise.cu", "sampler_step", x_t.size, *arrays, *numbers, clip, x_t.size)
    return x_prev, pred_x0


@float32_only
def q_sample_normal(x0, a, b, seed: int, purpose: int, step: int, first: int = 0):
    x_t, noise = empty(x0.shape, x0.shape)
    drawn = np.uint64(first), stream(seed, purpose, step)
    sizes, n = (x0.size // len(x0), x0.size), x0.size + first % 4
    each_four("q_sample_normal", n, x0, a, b, x_t, noise, *drawn, *sizes)
    return x_t, noise


@float32_only
def sampler_step_normal(
    x_t, output, coefficients: Sequence[float], clip: bool,
    seed: int, purpose: int, step: int, first: int = 0,
):  # fmt: skip
    x_prev, pred_x0 = empty(x_t.shape, x_t.shape)
    numbers = map(float, coefficients)
    arrays = x_t, output, x_prev, pred_x0
    drawn = np.uint64(first), stream(seed, purpose, step)
    n = x_t.size
    # The first block of the stream may begin up to three elements before `first`.
    each_four("sampler_step_normal", n + first % 4, *arrays, *numbers, clip, *drawn, n)
    return x_prev, pred_x0
