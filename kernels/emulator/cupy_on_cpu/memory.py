"""Memory of the stand-in for CuPy: pools with a limit, allocation of arrays, pinned memory.

An array requests its bytes from an allocator, as in CuPy; the allocator only counts them, and the
array lies in the emulator's guarded memory. Pools keep no freed blocks: all their bytes are in use.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minddpm.kernels.emulator import memory
from minddpm.kernels.emulator.cupy_on_cpu.state import capture

UNIT = 512  # bytes: CuPy's pools allocate multiples of this


class OutOfMemoryError(MemoryError):
    """An allocation exceeds the pool's limit; total: bytes allocated so far."""

    def __init__(self, size: int, total: int, limit: int = 0):
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes, limit "
            f"set to: {limit:,} bytes)."
        )


class MemoryPointer:
    """Bytes allocated from a pool; they return to the pool when this object is destroyed."""

    def __init__(self, pool: MemoryPool, size: int):
        self._pool, self._size = pool, size
        pool._used += size

    def __del__(self) -> None:
        self._pool._used -= self._size


class MemoryPool:
    """Device memory, up to a limit.

    CUPY_GPU_MEMORY_LIMIT in the environment is the limit of a new pool, in bytes. (CuPy also
    accepts a percentage of the GPU's memory, which does not exist here.)
    """

    def __init__(self) -> None:
        self._used = 0
        self.set_limit(int(os.environ.get("CUPY_GPU_MEMORY_LIMIT", 0)))

    def malloc(self, size: int) -> MemoryPointer:
        """Allocate this many bytes. Raises OutOfMemoryError beyond the limit."""
        rounded = -(-size // UNIT) * UNIT
        if self._limit and self._used + rounded > self._limit:
            raise OutOfMemoryError(rounded, self._used, self._limit)
        return MemoryPointer(self, rounded)

    def set_limit(self, size: int | None = None) -> None:
        """Limit the bytes in use at a time; None or 0: no limit."""
        self._limit = size or 0

    def get_limit(self) -> int:
        """Return the limit in bytes; 0 if there is none."""
        return self._limit

    def used_bytes(self) -> int:
        """Return the bytes that arrays hold."""
        return self._used

    def total_bytes(self) -> int:
        """Return the same as used_bytes, because no freed blocks are kept."""
        return self._used

    def free_all_blocks(self) -> None:
        """Do nothing, because no freed blocks are kept."""


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
    if capture.launches is not None and len(_allocators) > 1:
        capture.kept.append(values)
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
