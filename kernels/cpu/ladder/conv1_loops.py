"""Rung 1: the definition of the convolution, in plain loops.

    y[n, i, j, k] = b[k] + sum over kh, kw, c of x[n, i s + kh - top, j s + kw - left, c] w[kh, kw, c, k]

Numba compiles the loops, and LLVM vectorises the innermost one, over output channels. Each product
still costs two loads and a store, because the sums are in memory: the multipliers are idle most of
the time. Measured: a tenth to a quarter of the machine's peak forward, a twentieth backward
(kernels/README.md has the table of all rungs; the other files quote it).
"""  # noqa: E501

import numpy as np

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.ladder.shape import SHAPE, Shape
from minddpm.kernels.cpu.memory import address, array_at, empty, items, workspace
from minddpm.kernels.cpu.task import integers, task


@task
def _forward(piece, pieces, worker, at):
    s = Shape(*integers(at, SHAPE))
    x_at, w_at, b_at, y_at = integers(at + 8 * SHAPE, 4)
    x, y = array_at(x_at, (s.N, s.H, s.W, s.C)), array_at(y_at, (s.N, s.OH, s.OW, s.C_out))
    w, b = array_at(w_at, (s.KH, s.KW, s.C, s.C_out)), array_at(b_at, (s.C_out,))
    for n in items(s.N, piece, pieces):
        for i in range(s.OH):
            for j in range(s.OW):
                for k in range(s.C_out):
                    y[n, i, j, k] = b[k]
                for kh in range(s.KH):
                    for kw in range(s.KW):
                        row, column = i * s.stride + kh - s.top, j * s.stride + kw - s.left
                        if 0 <= row < s.H and 0 <= column < s.W:
                            for c in range(s.C):
                                for k in range(s.C_out):
                                    y[n, i, j, k] += x[n, row, column, c] * w[kh, kw, c, k]


@task
def _backward(piece, pieces, worker, at):
    """Compute gx of this piece's images, and its partial sums of gw and gb."""
    s = Shape(*integers(at, SHAPE))
    gy_at, x_at, w_at, gx_at, gw_at, gw_row, gb_at, gb_row = integers(at + 8 * SHAPE, 8)
    x, gx = array_at(x_at, (s.N, s.H, s.W, s.C)), array_at(gx_at, (s.N, s.H, s.W, s.C))
    gy, w = (
        array_at(gy_at, (s.N, s.OH, s.OW, s.C_out)),
        array_at(w_at, (s.KH, s.KW, s.C, s.C_out)),
    )
    gw = array_at(gw_at + piece * gw_row, (s.KH, s.KW, s.C, s.C_out))
    gb = array_at(gb_at + piece * gb_row, (s.C_out,))
    gw[:] = 0
    gb[:] = 0
    for n in items(s.N, piece, pieces):
        if gx_at:
            gx[n] = 0
        for i in range(s.OH):
            for j in range(s.OW):
                for k in range(s.C_out):
                    gb[k] += gy[n, i, j, k]
                for kh in range(s.KH):
                    for kw in range(s.KW):
                        row, column = i * s.stride + kh - s.top, j * s.stride + kw - s.left
                        if 0 <= row < s.H and 0 <= column < s.W:
                            for c in range(s.C):
                                total = np.float32(0)
                                for k in range(s.C_out):
                                    gw[kh, kw, c, k] += x[n, row, column, c] * gy[n, i, j, k]
                                    total += gy[n, i, j, k] * w[kh, kw, c, k]
                                if gx_at:
                                    gx[n, row, column, c] += total


def conv2d(x, w, b, stride, padding):
    """Return y of kernels.reference.conv2d."""
    s = Shape.of(x.shape, w.shape, stride, padding)
    y = empty((s.N, s.OH, s.OW, s.C_out))
    bias = np.zeros(s.C_out, np.float32) if b is None else b
    _forward(threads.pieces(s.N), *s, *(address(a) for a in (x, w, bias, y)))
    return y


def conv2d_backward(gy, x, w, stride, padding, need_gx=True):
    """Return gx, gw, gb of kernels.reference.conv2d_backward."""
    s = Shape.of(x.shape, w.shape, stride, padding)
    gx = empty(x.shape) if need_gx else None
    parts = threads.parts(s.N)
    gw, gb = workspace(w.size, 0, parts), workspace(s.C_out, 1, parts)
    _backward(
        parts, *s, address(gy), address(x), address(w), address(gx), address(gw), gw.strides[0],
        address(gb), gb.strides[0],
    )  # fmt: skip
    return gx, gw[:, : w.size].sum(axis=0).reshape(w.shape), gb[:, : s.C_out].sum(axis=0)
