"""Lookups: the values of a schedule at timesteps, and rows of an embedding."""

from types import ModuleType

import numpy as np

from minddpm.kernels.arrays import Array, array_module


def take(xp: ModuleType, table: np.ndarray, t: Array, dtype: str) -> Array:
    """Return table[t] as an array of xp: table [T] and t int64 [N] on the host -> dtype [N].

    A kernel set that records may be given t on the device.
    """
    return xp.asarray(table[t].astype(dtype))


def take_rows(weight: Array, index: Array) -> Array:
    """Return weight[index]: weight [R, C], index int64 [N] -> [N, C]."""
    return weight[index]


def take_rows_backward(gy: Array, index: Array, rows: int) -> Array:
    """Return gw [rows, C] of take_rows: gw[r] = sum of gy [N, C] where index is r."""
    # Computed as a product with the one-hot matrix: it fixes the order of the additions, which
    # atomic additions do not.
    xp = array_module(gy)
    one_hot = (xp.arange(rows)[:, None] == index[None, :]).astype(gy.dtype)
    return one_hot @ gy
