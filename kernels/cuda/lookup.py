"""Lookups in tables (lookup.cu)."""

from functools import cache
from types import ModuleType

import numpy as np

from minddpm.kernels import reference
from minddpm.kernels.arrays import Array, are_indices
from minddpm.kernels.cuda.launch import each, empty, is_array
from minddpm.kernels.float32 import contiguous_float32

TAKE = {("float64", "float32"): "take_floats", ("int64", "int64"): "take_integers"}


def take(xp: ModuleType, table, t, dtype: str):
    """Return table[t]; t may be on the device, as in a recorded training step."""
    name = TAKE.get((table.dtype.name, dtype))
    if not is_array(t) or name is None:
        return reference.take(xp, table, xp.asnumpy(t), dtype)
    values = xp.empty(len(t), dtype)
    each("lookup.cu", name, len(t), _on_device(xp, table.tobytes(), table.dtype), t, values, len(t))
    return values


@cache
def _on_device(xp: ModuleType, table: bytes, dtype: np.dtype) -> Array:
    """Return a table of a schedule. It is never freed: a recorded graph reads it."""
    return xp.asarray(np.frombuffer(table, dtype))


def take_rows(weight, index):
    if not contiguous_float32(weight) or not are_indices(index):
        return reference.take_rows(weight, index)
    C = weight.shape[1]
    (rows,) = empty((len(index), C))
    each("lookup.cu", "take_rows", rows.size, weight, index, rows, C, rows.size)
    return rows


def take_rows_backward(gy, index, rows: int):
    if not contiguous_float32(gy) or not are_indices(index):
        return reference.take_rows_backward(gy, index, rows)
    N, C = gy.shape
    (gw,) = empty((rows, C))
    each("lookup.cu", "take_rows_backward", gw.size, gy, index, gw, N, C, gw.size)
    return gw
