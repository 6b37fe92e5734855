"""SiLU, dropout, upsampling and sums of gradients.

Loops that LLVM vectorises well are plain. SiLU is written in vector instructions, because LLVM
would call tanh for one number at a time.
"""

import math

import numpy as np
from numba import njit

from minddpm.kernels import reference
from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.memory import (
    add_floats,
    address,
    array_at,
    clear,
    copy_floats,
    empty,
    floats,
    integers_at,
    items,
    share,
)
from minddpm.kernels.cpu.philox import CHUNK, LOW, key, philox
from minddpm.kernels.cpu.recorder import here
from minddpm.kernels.cpu.task import as_float, as_float32, bits, integers, task
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES, Emitter, kernel
from minddpm.kernels.float32 import contiguous_float32, float32_only


def _pieces(x):
    return threads.pieces(x.size // CHUNK)


# --- SiLU ----------------------------------------------------------------------------------------


@float32_only
def silu(x):
    if x.size < LANES:
        return reference.silu(x)
    y = empty(x.shape)
    _forward(_pieces(x), address(x), address(y), x.size)
    return y


@float32_only
def silu_backward(gy, x):
    if x.size < LANES:
        return reference.silu_backward(gy, x)
    gx = empty(x.shape)
    _backward(_pieces(x), address(gy), address(x), address(gx), x.size)
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
def _forward(piece, pieces, worker, at):
    x, y, n = integers(at, 3)
    first, end = share(n // LANES, piece, pieces), share(n // LANES, piece + 1, pieces)
    if end > first:
        _silu((x + 4 * LANES * first, y + 4 * LANES * first, end - first))
    if piece == pieces - 1 and n % LANES:  # the last LANES numbers, some for the second time
        _silu((x + 4 * (n - LANES), y + 4 * (n - LANES), 1))


@task
def _backward(piece, pieces, worker, at):
    gy, x, gx, n = integers(at, 4)
    first, end = share(n // LANES, piece, pieces), share(n // LANES, piece + 1, pieces)
    if end > first:
        at_first = 4 * LANES * first
        _silu_backward((gy + at_first, x + at_first, gx + at_first, end - first))
    if piece == pieces - 1 and n % LANES:
        at_last = 4 * (n - LANES)
        _silu_backward((gy + at_last, x + at_last, gx + at_last, 1))


# --- dropout -------------------------------------------------------------------------------------


@float32_only
def dropout(x, p: float, seed: int, purpose: int, step: int, first: int = 0):
    y, limit = empty(x.shape), math.ceil(p * 2.0**24) << 8
    here.step[0], *k = key(step, seed, purpose)
    arrays = address(x), address(y), address(here.step)
    _dropout(_pieces(x), *arrays, x.size, limit, bits(1 / (1 - p)), first, *k)
    return y


@task
def _dropout(piece, pieces, worker, at):
    """y = factor x if the element's random word is at least limit, else 0; arrays are flat.

    That is the condition u >= p of its uniform number u = (word >> 8) / 2^24. The words are first,
    first + 1, ... of the stream; below, elements are counted from the beginning of a block.
    """
    x_at, y_at, step_at, n, limit, factor, first, k0, k1 = integers(at, 9)
    (step,) = integers(step_at, 1)
    x, y, factor = floats(x_at, n), floats(y_at, n), as_float32(factor)
    limit, step, k0, k1 = np.uint64(limit), np.uint64(step), np.uint64(k0), np.uint64(k1)
    lead, first_block = first % 4, first // 4
    for k in items(-(-(lead + n) // CHUNK), piece, pieces):
        start, end = max(lead, k * CHUNK), min((k + 1) * CHUNK, lead + n)
        head = min(-(-start // 4) * 4, end)  # complete blocks: from head to middle
        middle = max(head, end // 4 * 4)
        whole = slice(head - lead, middle - lead)
        block = np.uint64(first_block + head // 4)
        _dropout_blocks(block, limit, factor, step, k0, k1, x[whole], y[whole])
        for i, stop in ((start, head), (middle, end)):
            if i < stop:
                words = philox(np.uint64(first_block + i // 4), step, k0, k1)
                for j in range(i, stop):
                    stays = words[j % 4] >= limit
                    y[j - lead] = x[j - lead] * factor if stays else np.float32(0)


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
    y = empty((N, 2 * H, 2 * W, C))
    _upsample(threads.pieces(N * H), address(x), address(y), *x.shape)
    return y


@task
def _upsample(piece, pieces, worker, at):
    """x [N, H, W, C] -> y [N, 2H, 2W, C]: each line once, then its copy below it."""
    x, y, N, H, W, C = integers(at, 6)
    for r in items(N * H, piece, pieces):
        line, pixel = y + 4 * r * 4 * W * C, 4 * C
        for j in range(W):
            source = x + (r * W + j) * pixel
            copy_floats(source, line + 2 * j * pixel, C)
            copy_floats(source, line + (2 * j + 1) * pixel, C)
        copy_floats(line, line + 2 * W * pixel, 2 * W * C)


@float32_only
def upsample_nearest_backward(gy):
    N, H2, W2, C = gy.shape
    gx = empty((N, H2 // 2, W2 // 2, C))
    _upsample_backward(threads.pieces(N * H2), address(gy), address(gx), *gx.shape)
    return gx


@task
def _upsample_backward(piece, pieces, worker, at):
    gy_at, gx_at, N, H, W, C = integers(at, 6)
    gy, gx = array_at(gy_at, (N, 2 * H, 2 * W, C)), array_at(gx_at, (N, H, W, C))
    for r in items(N * H, piece, pieces):
        n, i = divmod(r, H)
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
    total = empty(a.shape)
    _add(_pieces(a), address(a), address(b), address(total), total.size)
    return total


@task
def _add(piece, pieces, worker, at):
    """total = a + b, flat."""
    a, b, total, n = integers(at, 4)
    first, end = share(n, piece, pieces), share(n, piece + 1, pieces)
    add_floats(a + 4 * first, b + 4 * first, total + 4 * first, end - first)


def add_to(total, x):
    if x is None:
        return total
    if not contiguous_float32(total, x):
        return reference.add_to(total, x)
    _add(_pieces(x), address(total), address(x), address(total), total.size)
    return total


def add_all(totals, xs):
    for total, x in zip(totals, xs or (None,) * len(totals), strict=True):
        add_to(total, x)
    return totals


@task
def _add_rows(piece, pieces, worker, at):
    """y[n, :C] = a[n] + b for arrays a [N, C], b [C], y [N, wide]; y[n, C:] = 0."""
    a, b, y, N, C, wide = integers(at, 6)
    for n in items(N, piece, pieces):
        add_floats(a + 4 * n * C, b, y + 4 * n * wide, C)
        clear(y + 4 * (n * wide + C), wide - C)


def add_rows(a, b, wide: int):
    """Return a [N, C] + b [C], with zeros up to `wide` columns."""
    (N, C), y = a.shape, empty((len(a), wide))
    _add_rows(threads.pieces(N), address(a), address(b), address(y), N, C, wide)
    return y


# --- timesteps -----------------------------------------------------------------------------------


def timestep_features(t, C: int, freq_shift: float, cosines_first: bool, dtype: str):
    if t.dtype != np.int64 or not t.flags.c_contiguous or dtype != "float32":
        return reference.timestep_features(t, C, freq_shift, cosines_first, dtype)
    features = empty((len(t), C))
    arrays = address(t), address(features)
    _timestep_features(threads.pieces(len(t)), *arrays, len(t), C, bits(freq_shift), cosines_first)
    return features


@task
def _timestep_features(piece, pieces, worker, at):
    t_at, y_at, N, C, freq_shift, cosines_first = integers(at, 6)
    t, y, half = integers_at(t_at, N), array_at(y_at, (N, C)), C // 2
    sine, cosine = (half, 0) if cosines_first else (0, half)
    for n in items(N, piece, pieces):
        y[n, C - 1] = 0  # the last one of an odd C
        for i in range(half):
            angle = t[n] * _frequency(i, half - as_float(freq_shift))
            y[n, sine + i], y[n, cosine + i] = math.sin(angle), math.cos(angle)


@njit(error_model="numpy")
def _frequency(i, last):
    return math.exp(-math.log(10000) * (i / last))
