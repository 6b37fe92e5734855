"""Rearranging weights and adding up partial sums: NumPy's work between the kernels, as tasks.

Tasks take less time than NumPy for arrays of this size, and only tasks can be replayed (replay.py).
"""

import numpy as np

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.memory import (
    add_floats,
    address,
    clear,
    copy_floats,
    empty,
    floats,
    items,
    pairs,
)
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.instructions import LANES
from minddpm.kernels.cpu.vector.tile import PAIR

AXES = 4


def copied(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return a C-contiguous copy of a float32 view with up to 4 axes, in `out` if it is given."""
    y = empty(x.shape) if out is None else out
    more = AXES - x.ndim
    shape, strides = (*[1] * more, *x.shape), (*[0] * more, *x.strides)
    _copy(threads.pieces(shape[0] * shape[1]), address(x), address(y), *shape, *strides)
    return y


@serial
def _copy_line(source, step, to, n):
    """Copy n floats that are `step` bytes apart to neighbouring ones."""
    if step == 4:
        copy_floats(source, to, n)
    else:
        line = floats(to, n)
        for k in range(n):
            line[k] = floats(source + k * step, 1)[0]


@task
def _copy(piece, pieces, worker, at):
    x, y, A, B, C, D, a, b, c, d = integers(at, 10)
    for i in items(A * B, piece, pieces):
        for j in range(C):
            source = x + i // B * a + i % B * b + j * c
            to = y + (i * C + j) * D * 4
            _copy_line(source, d, to, D)


def transposed(w: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return a matrix [D, C_out] as [C_out, D], in `out` if it is given."""
    return copied(w.T, out)


def pack(w: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return a matrix [D, C_out] packed for the tile: [pairs of C_out, D, 2 LANES], zero-padded.

    w may be a transposed view. The result is in `out` if it is given.
    """
    D, C_out = w.shape
    packed = empty((pairs(C_out) // 2, D, PAIR)) if out is None else out
    _pack(threads.pieces(D), address(w), address(packed), D, C_out, *w.strides)
    return packed


@task
def _pack(piece, pieces, worker, at):
    w, packed, D, C_out, line, column = integers(at, 6)
    for i in items(D, piece, pieces):
        for k in range(0, C_out, PAIR):
            source, to = w + i * line + k * column, packed + (k * D + i * PAIR) * 4
            width = min(PAIR, C_out - k)
            _copy_line(source, column, to, width)
            clear(to + 4 * width, PAIR - width)


def padded_bias(b: np.ndarray | None, C_out: int) -> np.ndarray:
    """Return b (None: zeros), zero-padded to complete pairs of vectors."""
    wide = pairs(C_out) * LANES
    if b is None:
        return np.zeros(wide, np.float32)
    if wide == C_out and b.flags.c_contiguous:
        return b
    return pack(b[None, :]).reshape(-1)  # a matrix of one line


def summed(x: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Return the sum over the first axis of a view [parts, ..., C] with contiguous last axis.

    The parts are added in order. x has two or three axes; the result is in `out` if it is given.
    """
    y = empty(x.shape[1:]) if out is None else out
    rows, C = (1, x.shape[1]) if x.ndim == 2 else x.shape[1:]
    step = 0 if x.ndim == 2 else x.strides[1]
    _sum(threads.pieces(rows), address(x), len(x), x.strides[0], rows, step, C, address(y))
    return y


@task
def _sum(piece, pieces, worker, at):
    x, parts, part, rows, step, C, y = integers(at, 7)
    for r in items(rows, piece, pieces):
        to = y + r * C * 4
        copy_floats(x + r * step, to, C)
        for p in range(1, parts):
            add_floats(to, x + p * part + r * step, to, C)
