"""Memory of the stand-in for CuPy: allocation of arrays, pinned memory.

An array requests its bytes from an allocator, as in CuPy; the allocator only counts them (pool.py),
and the array lies in the emulator's guarded memory.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minddpm.kernels.emulator import memory
from minddpm.kernels.emulator.cupy_on_cpu.pool import UNIT, MemoryPointer, MemoryPool
from minddpm.kernels.emulator.cupy_on_cpu.state import capture, is_recorded

default_pool = MemoryPool()
_allocators: list[Callable[[int], MemoryPointer]] = [default_pool.malloc]


@contextmanager
def using_allocator(allocator: Callable[[int], MemoryPointer]) -> Iterator[None]:
    """Allocate arrays in the `with` block by this function, such as a pool's malloc."""
    _allocators.append(allocator)
    try:
        yield
    finally:
        _allocators.pop()


def empty(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return a poisoned device array, its bytes counted by the current allocator."""
    dtype = np.dtype(dtype)
    pointer = _allocators[-1](int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    values = memory.empty(shape, dtype)
    weakref.finalize(values.base, id, pointer)  # keeps the pointer alive as long as the array
    if is_recorded() and len(_allocators) > 1:
        capture.keep(values)
    return values


def array(values: np.ndarray) -> np.ndarray:
    """Return a copy in device memory."""
    copy = empty(values.shape, values.dtype)
    copy[...] = values
    return copy


class _Pinned(bytearray):
    """Host memory that the device can read directly."""


def alloc_pinned_memory(size: int) -> _Pinned:
    """Return a buffer of at least this many bytes, for np.frombuffer(buffer, dtype, count)."""
    return _Pinned(max(1, -(-size // UNIT)) * UNIT)


def is_pinned(values: np.ndarray) -> bool:
    """Return whether a host array lies in pinned memory."""
    return isinstance(memory.owner(values), _Pinned)
