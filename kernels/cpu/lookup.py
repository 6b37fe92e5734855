"""Lookups in tables, as tasks."""

import numpy as np

from minddpm.kernels import reference
from minddpm.kernels.arrays import are_indices
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
)
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.float32 import contiguous_float32


def take(xp, table, t, dtype: str):
    function = _TAKE.get((table.dtype.name, dtype))
    if function is None or not are_indices(t):
        return reference.take(xp, table, t, dtype)
    table, values = np.ascontiguousarray(table), empty(len(t), dtype)
    function(1, address(table), len(table), address(t), address(values), len(t))
    return values


@task
def _take_floats(piece, pieces, worker, at):
    table_at, T, t_at, values_at, N = integers(at, 5)
    table, values = array_at(table_at, (T,), np.float64), floats(values_at, N)
    t = integers_at(t_at, N)
    for n in items(N, piece, pieces):
        values[n] = table[t[n]]


@task
def _take_integers(piece, pieces, worker, at):
    table_at, T, t_at, values_at, N = integers(at, 5)
    table, t, values = integers_at(table_at, T), integers_at(t_at, N), integers_at(values_at, N)
    for n in items(N, piece, pieces):
        values[n] = table[t[n]]


_TAKE = {("float64", "float32"): _take_floats, ("int64", "int64"): _take_integers}


def take_rows(weight, index):
    if not contiguous_float32(weight) or not are_indices(index):
        return reference.take_rows(weight, index)
    N, C = len(index), weight.shape[1]
    rows = empty((N, C))
    _take_rows(threads.pieces(N), address(weight), address(index), address(rows), N, C)
    return rows


@task
def _take_rows(piece, pieces, worker, at):
    weight, index_at, to, N, C = integers(at, 5)
    index = integers_at(index_at, N)
    for n in items(N, piece, pieces):
        copy_floats(weight + index[n] * C * 4, to + n * C * 4, C)


def take_rows_backward(gy, index, rows: int):
    if not contiguous_float32(gy) or not are_indices(index):
        return reference.take_rows_backward(gy, index, rows)
    N, C = gy.shape
    gw = empty((rows, C))
    _take_rows_backward(threads.pieces(rows), address(gy), address(index), address(gw), N, C, rows)
    return gw


@task
def _take_rows_backward(piece, pieces, worker, at):
    gy, index_at, gw, N, C, rows = integers(at, 6)
    index = integers_at(index_at, N)
    for r in items(rows, piece, pieces):
        to = gw + r * C * 4
        clear(to, C)
        for n in range(N):
            if index[n] == r:
                add_floats(to, gy + n * C * 4, to, C)
