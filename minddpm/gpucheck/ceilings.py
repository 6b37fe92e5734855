"""What the card reaches at most, measured: loops of nothing but arithmetic, and a large copy."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

import minddpm
from minddpm import backend
from minddpm.gpucheck.arrays import verify
from minddpm.gpucheck.timings import TOLERANCE, Run, Task
from minddpm.kernels.cuda import peak

ROUNDS, NUMBERS, REPEATED = 4096, 2**26, 11
QUICK = 64  # times fewer
BLOCKS = 8  # of a loop, for each multiprocessor


def tasks(quick: bool) -> list[Task]:
    """Return the timings of the multipliers, the memory and, if there are any, tensor cores."""
    properties, less = backend.xp.cuda.runtime.getDeviceProperties(0), QUICK if quick else 1
    blocks, rounds = BLOCKS * properties["multiProcessorCount"], ROUNDS // less
    copied = partial(_copy, NUMBERS // less)
    found = [
        _task("FFMA", peak.multiply_add, peak.flops, 16, blocks, rounds, 0.5, 0.5),
        Task("ceiling", "copy in memory", copied, REPEATED, bytes=8 * NUMBERS // less),
    ]
    if "fp16" in backend.precisions():
        loop, flops = peak.multiply_add_tensor, peak.tensor_flops
        found.append(_task("tensor cores, half", loop, flops, rounds, blocks, rounds, 1 / 16))
    return found


def _task(
    who: str, loop: Callable[..., Any], flops: Callable[[int, int], int], expected: float,
    blocks: int, rounds: int, *numbers: float,
) -> Task:  # fmt: skip
    def prepare() -> Run:
        minddpm.set_backend("cupy")
        result = backend.to_numpy(loop(blocks, rounds, *numbers))
        verify(result, np.full(result.shape, expected, np.float32), TOLERANCE)
        return lambda: loop(blocks, rounds, *numbers)

    return Task("ceiling", who, prepare, REPEATED, flops=flops(blocks, rounds))


def _copy(numbers: int) -> Run:
    """Return a copy by the device itself: a kernel of CuPy's, such as x.copy(), is slower."""
    minddpm.set_backend("cupy")
    x, y = backend.xp.zeros(numbers, "float32"), backend.xp.empty(numbers, "float32")
    return lambda: backend.xp.copyto(y, x)
