"""SiLU, dropout, upsampling and sums of gradients.

Loops that LLVM vectorises well are plain. SiLU is written in vector instructions, because LLVM
would call tanh for one number at a time.
"""

import math

import numpy as np
from numba import njit, prange

from minddpm.kernels import reference
from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.compiled import parallel
from minddpm.kernels.cpu.memory import address, share
from minddpm.kernels.cpu.philox import B8, CHUNK, LOW, key, philox
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES, Emitter, kernel
from minddpm.kernels.float32 import float32_only

FEW = 1 << 16  # up to this size NumPy finishes an addition before threads would have started


# --- SiLU ----------------------------------------------------------------------------------------


@float32_only
def silu(x):
    if x.size < LANES:
        return reference.silu(x)
    y = np.empty_like(x)
    _forward(threads.count(), address(x), address(y), x.size)
    return y


@float32_only
def silu_backward(gy, x):
    if x.size < LANES:
        return reference.silu_backward(gy, x)
    gx = np.empty_like(x)
    _backward(threads.count(), address(gy), address(x), address(gx), x.size)
    return gx


@kernel
def _silu(e: Emitter, x, y, vectors) -> None:
    """y = x sigmoid(x), `vectors` (at least 1) vectors."""

    def one(moving, carried):
        v = e.load(moving[0])
        e.store(e.mul(v, e.sigmoid(v)), moving[1])
        return carried

    e.loop(vectors, [(x, BYTES), (y, BYTES)], [], one)


@kernel
def _silu_backward(e: Emitter, gy, x, gx, vectors) -> None:
    """gx = gy s (1 + x (1 - s)) with s = sigmoid(x), `vectors` (at least 1) vectors."""

    def one(moving, carried):
        g, v = e.load(moving[0]), e.load(moving[1])
        s = e.sigmoid(v)
        slope = e.fma(v, e.sub(e.const(1), s), e.const(1))
        e.store(e.mul(e.mul(g, s), slope), moving[2])
        return carried

    e.loop(vectors, [(gy, BYTES), (x, BYTES), (gx, BYTES)], [], one)


@task
def _forward(t, threads, at):
    x, y, n = integers(at, 3)
    first, end = share(n // LANES, t, threads), share(n // LANES, t + 1, threads)
    if end > first:
        _silu((x + 4 * LANES * first, y + 4 * LANES * first, end - first))
    if t == threads - 1 and n % LANES:  # compute the last LANES numbers, some for the second time
        _silu((x + 4 * (n - LANES), y + 4 * (n - LANES), 1))


@task
def _backward(t, threads, at):
    gy, x, gx, n = integers(at, 4)
    first, end = share(n // LANES, t, threads), share(n // LANES, t + 1, threads)
    if end > first:
        at_first = 4 * LANES * first
        _silu_backward((gy + at_first, x + at_first, gx + at_first, end - first))
    if t == threads - 1 and n % LANES:
        at_last = 4 * (n - LANES)
        _silu_backward((gy + at_last, x + at_last, gx + at_last, 1))


# --- dropout -------------------------------------------------------------------------------------


@float32_only
def dropout(x, p: float, seed: int, purpose: int, step: int):
    y = np.empty_like(x)
    factor = np.float32(1 / (1 - p))
    _dropout(x.reshape(-1), p, factor, *key(step, seed, purpose), y.reshape(-1))
    return y


@parallel
def _dropout(x, p, factor, step, k0, k1, y):
    """y = factor x if the element's uniform number is at least p, else 0; arrays are flat."""
    # u = (word >> 8) / 2^24 >= p, as a condition on the word
    limit = np.uint64(math.ceil(p * 2.0**24)) << B8
    for k in prange(-(-x.size // CHUNK)):
        start = np.int64(k * CHUNK)
        end = min(start + CHUNK, x.size)
        middle = start + (end - start) // 4 * 4  # the end of the complete blocks
        _dropout_blocks(
            np.uint64(start // 4), limit, factor, step, k0, k1, x[start:middle], y[start:middle]
        )
        if middle < end:
            words = philox(np.uint64(middle // 4), step, k0, k1)
            for j in range(end - middle):
                stays = words[j] >= limit
                y[middle + j] = x[middle + j] * factor if stays else np.float32(0)


@njit
def _dropout_blocks(first_block, limit, factor, step, k0, k1, x, y):
    """Apply dropout to complete blocks: x and y [4 blocks]."""
    k0, k1 = k0 & LOW, k1 & LOW  # tells LLVM that their upper halves are zero
    zero = np.float32(0)
    for i in range(x.size // 4):
        a, b, c, d = philox(first_block + np.uint64(i), step, k0, k1)
        y[4 * i] = x[4 * i] * factor if a >= limit else zero
        y[4 * i + 1] = x[4 * i + 1] * factor if b >= limit else zero
        y[4 * i + 2] = x[4 * i + 2] * factor if c >= limit else zero
        y[4 * i + 3] = x[4 * i + 3] * factor if d >= limit else zero


# --- upsampling ----------------------------------------------------------------------------------


@float32_only
def upsample_nearest(x):
    N, H, W, C = x.shape
    y = np.empty((N, 2 * H, 2 * W, C), np.float32)
    _upsample(x, y)
    return y


@parallel
def _upsample(x, y):
    """x [N, H, W, C] -> y [N, 2H, 2W, C]."""
    N, H, W, C = x.shape
    for r in prange(N * H):
        n, i = divmod(np.int64(r), H)
        for j in range(W):
            for c in range(C):
                v = x[n, i, j, c]
                y[n, 2 * i, 2 * j, c] = v
                y[n, 2 * i, 2 * j + 1, c] = v
                y[n, 2 * i + 1, 2 * j, c] = v
                y[n, 2 * i + 1, 2 * j + 1, c] = v


@float32_only
def upsample_nearest_backward(gy):
    N, H2, W2, C = gy.shape
    gx = np.empty((N, H2 // 2, W2 // 2, C), np.float32)
    _upsample_backward(gy, gx)
    return gx


@parallel
def _upsample_backward(gy, gx):
    N, H, W, C = gx.shape
    for r in prange(N * H):
        n, i = divmod(np.int64(r), H)
        for j in range(W):
            for c in range(C):
                gx[n, i, j, c] = (
                    gy[n, 2 * i, 2 * j, c]
                    + gy[n, 2 * i, 2 * j + 1, c]
                    + gy[n, 2 * i + 1, 2 * j, c]
                    + gy[n, 2 * i + 1, 2 * j + 1, c]
                )


# --- sums of gradients ---------------------------------------------------------------------------


@float32_only
def add(a, b):
    if a.size < FEW:
        return reference.add(a, b)
    total = np.empty_like(a)
    _add(a.reshape(-1), b.reshape(-1), total.reshape(-1))
    return total


@parallel
def _add(a, b, total):
    for i in prange(total.size):
        total[i] = a[i] + b[i]


def add_to(total, x):
    if x is None:
        return total
    contiguous = all(a.dtype == np.float32 and a.flags.c_contiguous for a in (total, x))
    if total.size < FEW or not contiguous:
        return reference.add_to(total, x)
    _add(total.reshape(-1), x.reshape(-1), total.reshape(-1))
    return total


def add_all(totals, xs):
    for total, x in zip(totals, xs or (None,) * len(totals), strict=True):
        add_to(total, x)
    return totals
