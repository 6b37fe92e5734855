"""Loops of nothing but arithmetic: what a card reaches at most (peak.cu, peak_tensor.cu)."""

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda.launch import cupy, launch

CHAINS, TENSOR_SUMS = 16, 8  # independent sums of a thread, of a warp
THREADS, TENSOR_THREADS = 256, 128  # of a block


def multiply_add(blocks: int, rounds: int, factor: float, term: float) -> Array:
    """Return each thread's sum of 16 numbers after `rounds` steps x -> factor x + term from 1."""
    y = cupy().empty(blocks * THREADS, "float32")
    launch("peak.cu", "multiply_add", (blocks,), (THREADS,), y, factor, term, 0.0, rounds)
    return y


def multiply_add_tensor(blocks: int, rounds: int, factor: float) -> Array:
    """Return each warp's 16 x 8 sums of `rounds` products of a matrix `factor` and one of ones."""
    y = cupy().empty((blocks * TENSOR_THREADS // 32, 16, 8), "float32")
    numbers = factor, 0.0, rounds
    launch("peak_tensor.cu", "multiply_add_tensor", (blocks,), (TENSOR_THREADS,), y, *numbers)
    return y


def flops(blocks: int, rounds: int) -> int:
    """Return the multiplications and additions of multiply_add."""
    return 2 * CHAINS * rounds * blocks * THREADS


def tensor_flops(blocks: int, rounds: int) -> int:
    """Return the multiplications and additions of multiply_add_tensor."""
    return 2 * 16 * 16 * 8 * TENSOR_SUMS * rounds * blocks * TENSOR_THREADS // 32
