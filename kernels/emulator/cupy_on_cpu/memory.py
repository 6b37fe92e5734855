"""Memory of the stand-in for CuPy: pools with a limit, as arrays are made, and pinned memory.

An array asks an allocator for its bytes, as in CuPy; the allocator only counts them, and the array
lies in the emulator's guarded memory. Nothing is kept for later: what a pool holds is in use.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minddpm.kernels.emulator import memory

UNIT = 512  # bytes: CuPy's pools give out multiples of this


class OutOfMemoryError(MemoryError):
    """The pool's limit does not allow an allocation; total: bytes that it has given out."""

    def __init__(self, size: int, total: int, limit: int = 0):
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes, limit "
            f"set to: {limit:,} bytes)."
        )


class MemoryPointer:
    """Bytes that a pool has given out; they go back when nobody holds this any more."""

    def __init__(self, pool: MemoryPool, size: int):
        self._pool, self._size = pool, size
        pool._used += size

    def __del__(self) -> None:
        self._pool._used -= self._size


class MemoryPool:
    """The device's memory, as much of it as the limit allows.

    CUPY_GPU_MEMORY_LIMIT in the environment is the limit of a new pool, in bytes. (CuPy also takes
    a percentage there: of a GPU's memory, of which there is none.)
    """

    def __init__(self) -> None:
        self._used = 0
        self.set_limit(int(os.environ.get("CUPY_GPU_MEMORY_LIMIT", 0)))

    def malloc(self, size: int) -> MemoryPointer:
        """So many bytes. Raises OutOfMemoryError."""
        rounded = -(-size // UNIT) * UNIT
        if self._limit and self._used + rounded > self._limit:
            raise OutOfMemoryError(rounded, self._used, self._limit)
        return MemoryPointer(self, rounded)

    def set_limit(self, size: int | None = None) -> None:
        """Give out no more bytes than this at a time; None or 0: as many as there are."""
        self._limit = size or 0

    def get_limit(self) -> int:
        """The limit in bytes; 0 where there is none."""
        return self._limit

    def used_bytes(self) -> int:
        """What arrays hold."""
        return self._used

    def total_bytes(self) -> int:
        """The same: no freed bytes are kept."""
        return self._used

    def free_all_blocks(self) -> None:
        """Nothing, for the same reason."""


default_pool = MemoryPool()
_allocators: list[Callable[[int], MemoryPointer]] = [default_pool.malloc]


@contextmanager
def using_allocator(allocator: Callable[[int], MemoryPointer]) -> Iterator[None]:
    """Arrays made within get their memory there: from a pool's malloc."""
    _allocators.append(allocator)
    try:
        yield
    finally:
        _allocators.pop()


def empty(shape: int | tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array of the device, poisoned, whose bytes the allocator has counted."""
    dtype = np.dtype(dtype)
    pointer = _allocators[-1](int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
    values = memory.empty(shape, dtype)
    weakref.finalize(values.base, id, pointer)  # it holds the pointer while there is an array
    return values


def array(values: np.ndarray) -> np.ndarray:
    """A copy on the device."""
    copy = empty(values.shape, values.dtype)
    copy[...] = values
    return copy


class _Pinned(bytearray):
    """Memory of the host that the device reads itself."""


def alloc_pinned_memory(size: int) -> _Pinned:
    """A buffer of at least so many bytes: np.frombuffer(it, dtype, count) is an array there."""
    return _Pinned(max(1, -(-size // UNIT)) * UNIT)


def is_pinned(values: np.ndarray) -> bool:
    """Whether an array of the host lies in pinned memory."""
    return isinstance(memory.owner(values), _Pinned)
