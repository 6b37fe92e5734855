"""Attention one query at a time: no [L, L] matrix of weights is ever in memory.

Forward: the row of scores of one query, its softmax, and the sum of v with these weights. Backward:
the row is made again rather than kept. For query i, with s_j = q_i . k_j / sqrt(D), p = softmax(s):

    gp_j = gy_i . v_j;  gs_j = p_j (gp_j - sum_j gp_j p_j)
    gq_i = sum_j gs_j k_j / sqrt(D);  gk_j += gs_j q_i / sqrt(D);  gv_j += p_j gy_i

A head has few channels (8), a picture many positions (49): vectors run along the positions. So one
head is turned to [D, L'] first, with L' = L rounded up to whole vectors.
"""

import math

import numpy as np
from numba import njit, prange

from minddpm.kernels.cpu.vector import BYTES, Emitter, W, kernel


@kernel
def scores(e: Emitter, row, matrix, out, D, vectors, matrix_row) -> None:
    """out[j] = sum over d of row[d] * matrix[d, j]."""

    def one_vector(at, carried):
        def one_channel(inner, acc):
            return [e.fma(e.broadcast(inner[0]), e.load(inner[1]), acc[0])]

        (s,) = e.loop(D, [(row, 4), (at[0], matrix_row)], [e.const(0)], one_channel)
        e.store(s, at[1])
        return carried

    e.loop(vectors, [(matrix, BYTES), (out, BYTES)], [], one_vector)


@kernel
def add_outer(e: Emitter, row, column, matrix, D, vectors, matrix_row) -> None:
    """matrix[d, j] += row[d] * column[j]."""

    def one_channel(at, carried):
        x = e.broadcast(at[0])

        def one_vector(inner, nothing):
            e.store(e.fma(x, e.load(inner[0]), e.load(inner[1])), inner[1])
            return nothing

        e.loop(vectors, [(column, BYTES), (at[1], BYTES)], [], one_vector)
        return carried

    e.loop(D, [(row, 4), (matrix, matrix_row)], [], one_channel)


@kernel
def dots(e: Emitter, column, matrix, out, D, vectors, matrix_row) -> None:
    """out[d] = sum over j of column[j] * matrix[d, j]; W - 1 floats behind it are written too."""

    def one_channel(at, carried):
        def one_vector(inner, acc):
            return [e.fma(e.load(inner[0]), e.load(inner[1]), acc[0])]

        pairs = [(column, BYTES), (at[0], BYTES)]
        (s,) = e.loop(vectors, pairs, [e.const(0)], one_vector)
        e.store(e.across(e.add, s), at[1])
        return carried

    e.loop(D, [(matrix, matrix_row), (out, 4)], [], one_channel)


@kernel
def softmax(e: Emitter, p, vectors) -> None:
    """p = softmax(p) in place; the largest is taken off first, so that no exponential overflows.

    Lanes beyond L hold -1e30, whose exponential is 2^-126 and vanishes beside the largest's 1.
    """
    (top,) = e.loop(
        vectors, [(p, BYTES)], [e.load(p)], lambda at, acc: [e.maximum(acc[0], e.load(at[0]))]
    )
    top = e.across(e.maximum, top)

    def exponential(at, acc):
        x = e.exp(e.sub(e.load(at[0]), top))
        e.store(x, at[0])
        return [e.add(acc[0], x)]

    (total,) = e.loop(vectors, [(p, BYTES)], [e.const(0)], exponential)
    share = e.b.fdiv(e.const(1), e.across(e.add, total))

    def divide(at, carried):
        e.store(e.mul(e.load(at[0]), share), at[0])
        return carried

    e.loop(vectors, [(p, BYTES)], [], divide)


@njit(inline="always")
def _turn(x, n, h, D, out):
    """Head h of image n of x [N, L, C] as out [D, L']."""
    for i in range(x.shape[1]):
        for d in range(D):
            out[d, i] = x[n, i, h * D + d]


@njit(inline="always")
def _weights(q, n, i, h, D, k, p, scale):
    """p = softmax(q_i k / sqrt(D)), k turned."""
    L = q.shape[1]
    vectors = p.size // W
    scores((q[n, i, h * D :].ctypes.data, k.ctypes.data, p.ctypes.data, D, vectors, 4 * p.size))
    for j in range(L):
        p[j] *= scale
    p[L:] = np.float32(-1e30)
    softmax((p.ctypes.data, vectors))


@njit(parallel=True, nogil=True, cache=True)
def forward(q, k, v, heads, y):
    """q, k, v, y [N, L, heads D]."""
    N, L, C = q.shape
    D = C // heads
    scale = np.float32(1 / math.sqrt(D))
    padded = (L + W - 1) // W * W
    for unit in prange(N * heads):
        n, h = divmod(np.int64(unit), heads)
        kt, vt = np.zeros((D, padded), np.float32), np.zeros((D, padded), np.float32)
        _turn(k, n, h, D, kt)
        _turn(v, n, h, D, vt)
        p, row = np.empty(padded, np.float32), np.empty(D + W, np.float32)
        for i in range(L):
            _weights(q, n, i, h, D, kt, p, scale)
            p_at, row_at = p.ctypes.data, row.ctypes.data
            dots((p_at, vt.ctypes.data, row_at, D, padded // W, 4 * padded))
            y[n, i, h * D : (h + 1) * D] = row[:D]


@njit(parallel=True, nogil=True, cache=True)
def backward(gy, q, k, v, heads, gq, gk, gv):
    N, L, C = q.shape
    D = C // heads
    scale = np.float32(1 / math.sqrt(D))
    padded = (L + W - 1) // W * W
    vectors, step = padded // W, 4 * padded
    for unit in prange(N * heads):
        n, h = divmod(np.int64(unit), heads)
        kt, vt = np.zeros((D, padded), np.float32), np.zeros((D, padded), np.float32)
        gkt, gvt = np.zeros((D, padded), np.float32), np.zeros((D, padded), np.float32)
        _turn(k, n, h, D, kt)
        _turn(v, n, h, D, vt)
        p, gs = np.empty(padded, np.float32), np.empty(padded, np.float32)
        row = np.empty(D + W, np.float32)
        for i in range(L):
            _weights(q, n, i, h, D, kt, p, scale)
            q_at = q[n, i, h * D :].ctypes.data
            gy_at = gy[n, i, h * D :].ctypes.data
            p_at, gs_at = p.ctypes.data, gs.ctypes.data
            scores((gy_at, vt.ctypes.data, gs_at, D, vectors, step))
            average = np.float32(0)
            for j in range(L):
                average += gs[j] * p[j]
            for j in range(padded):
                gs[j] = p[j] * (gs[j] - average) * scale
            add_outer((gy_at, p_at, gvt.ctypes.data, D, vectors, step))
            add_outer((q_at, gs_at, gkt.ctypes.data, D, vectors, step))
            dots((gs_at, kt.ctypes.data, row.ctypes.data, D, vectors, step))
            gq[n, i, h * D : (h + 1) * D] = row[:D]
        for i in range(L):
            for d in range(D):
                gk[n, i, h * D + d], gv[n, i, h * D + d] = gkt[d, i], gvt[d, i]
