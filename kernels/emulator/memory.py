"""The device's memory: arrays between pages that nobody may touch.

In front of each array, and in the few bytes behind it that fill its last 32, lie signalling NaNs. A
kernel that writes there changes them, which `overwritten` sees; one that goes up to a megabyte
further faults, which the runtime reports with thread and line. New arrays are full of the same
NaNs: what is read before it was written makes NaN of the result.
"""

import ctypes
import mmap
import weakref
from typing import NamedTuple

import numpy as np

PAGE = mmap.PAGESIZE
GUARD = 1 << 20  # bytes of address space before and behind each array that nobody may touch
RED_ZONE = 64  # bytes in front of an array, at least
# A quiet NaN stays the same number when something is added to it; of these a quiet one is made. The
# halves of the first are NaNs in float16.
POISON = np.array([0x7FA57DA5, 0x7FA57DA5], np.uint32).tobytes()
POISON_16 = np.array([0x7FA57FA5, 0x7FA57FA5], np.uint32).tobytes()  # also in bfloat16
POISON_64 = np.array([0x7FF4A5A5A5A5A5A5], np.uint64).tobytes()  # the other is no NaN in float64

_mprotect = ctypes.CDLL(None).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Extent(NamedTuple):
    """Addresses where the red zone, the array, the bytes behind it, the guard begin; the poison."""

    front: int
    start: int
    end: int
    guard: int
    poison: bytes


_live: dict[int, Extent] = {}  # by the address of the array


def empty(shape: int | tuple[int, ...], dtype: str | np.dtype = "float32") -> np.ndarray:
    """An array of the device, poisoned."""
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    padded = max(32, -(-nbytes // 32) * 32)  # wmma's matrices begin at multiples of 32 bytes
    pages = -(-(padded + RED_ZONE) // PAGE) * PAGE
    memory = mmap.mmap(-1, GUARD + pages + GUARD, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    poison = {"float64": POISON_64, "uint16": POISON_16}.get(dtype.name, POISON)
    words = np.frombuffer(memory, np.uint64, pages // 8, GUARD)
    words[:] = np.frombuffer(poison, np.uint64)[0]
    front = words.ctypes.data
    if _mprotect(front - GUARD, GUARD, 0) or _mprotect(front + pages, GUARD, 0):
        raise MemoryError("the guard pages of an array could not be set up")
    block = np.frombuffer(memory, np.uint8, padded, GUARD + pages - padded)
    start = front + pages - padded
    _live[start] = Extent(front, start, start + nbytes, front + pages, poison)
    weakref.finalize(block, _live.pop, start)  # every view of it keeps it alive
    return block[:nbytes].view(dtype).reshape(shape)


def array(values: np.ndarray) -> np.ndarray:
    """A copy on the device."""
    values = np.asarray(values)
    copy = empty(values.shape, values.dtype)
    copy[...] = values
    return copy


def owner(x: np.ndarray) -> object | None:
    """The buffer in which the values of x lie; None where NumPy found the memory itself."""
    base = x
    while base is not None and not isinstance(base, memoryview):
        base = getattr(base, "base", None)  # some of NumPy's views have helpers between them
    return None if base is None else base.obj


def holds(x: np.ndarray) -> bool:
    """Whether x is an array of the device, or a view of one."""
    return isinstance(owner(x), mmap.mmap)


def extents() -> list[Extent]:
    """Of all arrays that are alive, by address."""
    return sorted(list(_live.values()))


def extent_of(x: np.ndarray) -> Extent:
    """Of the array of which x is (a part)."""
    at = x.ctypes.data
    return next(e for e in list(_live.values()) if e.start <= at < e.guard)


def overwritten(x: np.ndarray) -> str | None:
    """Where a kernel wrote outside of the array of which x is (a part), "before" it or "behind"."""
    extent = extent_of(x)
    front = ctypes.string_at(extent.front, extent.start - extent.front)
    if front != extent.poison * (len(front) // 8):
        return "before"
    behind = ctypes.string_at(extent.end, extent.guard - extent.end)
    whole = extent.poison * 4  # of the last 32 bytes, some may be the array's own
    return None if whole[len(whole) - len(behind) :] == behind else "behind"
