"""Muon: one thread computes a matrix of the flat buffer, from its momentum to its step.

A matrix x [R, C'] is stored with its longer side as rows, and its columns are filled up with zeros
to complete tiles; zeros stay zeros. x^T x is the product of a weight's gradient, x P that of a
linear layer (matrix_product.py).
"""

import math

import numpy as np
from numba import njit

from minddpm.kernels import reference
from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.matrix_product import BLOCK, product_rows
from minddpm.kernels.cpu.memory import (
    address,
    array_at,
    clear,
    copy_pixels,
    floats,
    integers_at,
    pairs,
    workspace,
)
from minddpm.kernels.cpu.optimizer import ema_chunk, number
from minddpm.kernels.cpu.pool import MOST
from minddpm.kernels.cpu.task import as_float, bits, integers, task
from minddpm.kernels.cpu.vector.gemm import ROWS_T, transposed_product
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES, ROWS
from minddpm.kernels.cpu.vector.tile import PAIR, TILE_SPACE
from minddpm.kernels.float32 import contiguous_float32
from minddpm.kernels.reference.muon import EPS, ITERATIONS, A, B, C


def muon(
    param, grad, momentum, average, layout, lr, beta: float, weight_decay: float, grad_scale,
    ema_decay,
):  # fmt: skip
    if not len(layout) or not contiguous_float32(param, grad, momentum, average):
        reference.muon(
            param, grad, momentum, average, layout, lr, beta, weight_decay, grad_scale, ema_decay
        )
        return
    scale = np.asarray(grad_scale, np.float32)
    changing = [scale, *(np.asarray(x, np.float64) for x in (lr, ema_decay))]
    space = workspace(max(_space(*sizes) for _, *sizes in layout.tolist()))
    arrays = (address(a) for a in (param, grad, momentum, average, layout, *changing, space))
    numbers = space.strides[0], len(layout), bits(beta), bits(weight_decay)
    _muon(min(len(layout), MOST), *arrays, *numbers)


def _space(rows: int, columns: int) -> int:
    """Return the floats of working memory of a matrix."""
    R, width = max(rows, columns), pairs(min(rows, columns)) * LANES
    return TILE_SPACE + (1 + ROWS + 2 * R + 5 * width) * width


@task
def _muon(piece, pieces, worker, at):
    """Update every pieces-th matrix, since neighbours are often of one size."""
    param, grad, momentum, average, layout, scale_at, lr_at, decay_at, space, row = integers(at, 10)
    count, beta, weight_decay = integers(at + 8 * 10, 3)
    grad_scale, lr, ema_decay = floats(scale_at, 1)[0], number(lr_at), number(decay_at)
    if not math.isfinite(grad_scale):
        return
    for i in range(piece, count, pieces):
        start, rows, columns = integers_at(layout + 24 * i, 3)
        n, shift = rows * columns, 4 * start
        R, width = max(rows, columns), pairs(min(rows, columns)) * LANES
        scratch = space + worker * row
        x = scratch + (TILE_SPACE + (1 + ROWS) * width) * 4
        clear(x, R * width)
        transposed = rows < columns
        _begin(
            floats(grad + shift, n), floats(momentum + shift, n), array_at(x, (R, width)),
            columns, transposed, np.float32(as_float(beta)), grad_scale,
        )  # fmt: skip
        x = _orthogonal(x, R, width, scratch)
        p = floats(param + shift, n)
        step, keep = 0.2 * lr * math.sqrt(R), 1 - lr * as_float(weight_decay)
        _move(p, array_at(x, (R, width)), columns, transposed, np.float32(keep), np.float32(step))
        if average:
            ema_chunk(floats(average + shift, n), p, np.float32(1 - ema_decay))


@njit
def _begin(grad, momentum, x, columns, transposed, beta, grad_scale):
    """Update the momentum and store u / |u| in x, transposed if it has fewer rows than columns."""
    one, total = np.float32(1), 0.0
    for r in range(grad.size // columns):
        for c in range(columns):
            i = r * columns + c
            g = (one - beta) * (grad[i] * grad_scale)
            momentum[i] = beta * momentum[i] + g
            u = beta * momentum[i] + g
            total += np.float64(u) * np.float64(u)
            if transposed:
                x[c, r] = u
            else:
                x[r, c] = u
    factor = np.float32(1 / (math.sqrt(total) + EPS))
    for r in range(x.shape[0]):
        for c in range(x.shape[1]):
            x[r, c] *= factor


@serial
def _orthogonal(x, R, width, space):
    """Iterate on x [R, width], which is followed by as much space; return the result's address.

    All iterates are x Q with polynomials P and Q of the gram matrix x^T x, so the long products are
    done once: (x P)^T (x P) = P gram P. Why does rounding not matter? A gram matrix loses singular
    values below 1e-3 of the largest, but there P is A, whatever they are.
    """
    zeros = space + TILE_SPACE * 4
    spare = zeros + width * 4
    y = x + R * width * 4
    size = width * width * 4
    gram = y + R * width * 4
    square, p, q, packed = gram + size, gram + 2 * size, gram + 3 * size, gram + 4 * size
    clear(space, TILE_SPACE + width)
    _product(x, x, R, width, gram)
    for i in range(ITERATIONS):
        _product(gram, gram, width, width, square)  # all these matrices are symmetric
        _polynomial(floats(gram, width * width), floats(square, width * width), width,
                    floats(p if i else q, width * width))  # fmt: skip
        if i:
            _product(q, p, width, width, square)
            q, square = square, q
        if i + 1 < ITERATIONS:
            last = p if i else q
            _product(gram, last, width, width, square)
            _product(square, last, width, width, gram)
    for k in range(0, width, PAIR):
        copy_pixels(q + 4 * k, packed + k * width * 4, width, PAIR, 4 * width, 4 * PAIR)
    product_rows(0, R, x, width, packed, width, zeros, 0, y, space, spare)
    return y


@serial
def _product(a, b, R, width, to):
    """Compute a^T b of two [R, width], block by block of rows that stay in the cache."""
    clear(to, width * width)
    for r in range(0, R, BLOCK):
        skip, count = r * width * 4, min(BLOCK, R - r)
        for c in range(0, width, ROWS_T):
            for k in range(0, width, PAIR):
                out = to + (c * width + k) * 4
                transposed_product(
                    (
                        a + skip + 4 * c, 0, 4 * width, b + skip + 4 * k, 0, 4 * width, BYTES, 1,
                        count, out, 4 * width, out, 4 * width,
                    )
                )  # fmt: skip


@njit
def _polynomial(gram, square, width, p):
    """p = A I + B gram + C gram^2"""
    for i in range(gram.size):
        p[i] = np.float32(B) * gram[i] + np.float32(C) * square[i]
    for i in range(width):
        p[i * width + i] += np.float32(A)


@njit
def _move(param, x, columns, transposed, keep, step):
    """param = keep param - step x"""
    for r in range(param.size // columns):
        for c in range(columns):
            i = r * columns + c
            param[i] = keep * param[i] - step * (x[c, r] if transposed else x[r, c])
