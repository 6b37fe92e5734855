"""Measure this machine's peaks: multiply-adds per second and bytes per second from memory."""

import time
from collections.abc import Callable

import numpy as np
from llvmlite import ir

from minddpm.kernels.cpu.memory import add, address, share, workspace
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.gemm import panel_product
from minddpm.kernels.cpu.vector.instructions import BYTES, I64, LANES, ROWS, Emitter, kernel

CHAINS = 12  # independent sums: enough to hide the latency of a multiply-add
BLOCKS = 4  # the register tile is timed on 4 * LANES channels: 64 with AVX-512


@kernel
def multiply_add(e: Emitter, numbers, count) -> None:
    """Compute `count` times CHAINS multiply-adds in registers."""
    a, b = e.load(numbers), e.load(numbers, BYTES)
    sums = [e.const(i) for i in range(CHAINS)]

    def one(at, acc):
        return [e.fma(a, b, x) for x in acc]

    acc = e.loop(count, [(ir.Constant(I64, 0), 0)], sums, one)
    for i, x in enumerate(acc):
        e.store(x, numbers, (2 + i) * BYTES)


@task
def _multiply_add(piece, pieces, worker, at):
    numbers, row, count = integers(at, 3)
    multiply_add((numbers + piece * row, count))


@task
def _micro_kernel(piece, pieces, worker, at):
    # Sizes as arguments, as in a convolution: for constants the compiler would make another kernel.
    space, row, count, blocks, block = integers(at, 5)
    a = space + worker * row
    b = a + blocks * block
    c = b + blocks * LANES * 2 * BYTES
    for _ in range(count):
        panel_product((a, b, c, blocks, block, block))


@task
def _add(piece, pieces, worker, at):
    x, vectors = integers(at, 2)
    first, last = share(vectors, piece, pieces), share(vectors, piece + 1, pieces)
    add((x + first * BYTES, x + first * BYTES, x + first * BYTES, last - first))


def _best(run: Callable[[], None], rounds: int = 7) -> float:
    """Return the shortest of several times: for a peak, not for a typical speed."""
    run()
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _space(threads: int, floats: int) -> np.ndarray:
    space = workspace(floats)[:threads]
    space[:] = 0.5
    return space


def fma_peak(threads: int, count: int = 3_000_000) -> float:
    """Return the GFLOP/s of multiply-adds in registers."""
    space = _space(threads, (CHAINS + 2) * LANES)
    seconds = _best(lambda: _multiply_add(threads, address(space), space.strides[0], count))
    return threads * count * CHAINS * 2 * LANES / seconds / 1e9


def micro_kernel(threads: int, count: int = 20_000) -> float:
    """Return the GFLOP/s of the register tile on panels that stay in the L1 cache."""
    space = _space(threads, (BLOCKS + 2) * ROWS * LANES + BLOCKS * LANES * 2 * LANES)
    sizes = space.strides[0], count, BLOCKS, ROWS * BYTES
    seconds = _best(lambda: _micro_kernel(threads, address(space), *sizes))
    return threads * count * BLOCKS * LANES * ROWS * 2 * 2 * LANES / seconds / 1e9


def bandwidth(threads: int, megabytes: int = 200) -> float:
    """Return the GB/s (read plus written) for an array far larger than the caches."""
    x = np.ones(megabytes * 250_000 // LANES * LANES, np.float32)
    seconds = _best(lambda: _add(threads, address(x), x.size // LANES))
    return 2 * x.nbytes / seconds / 1e9
