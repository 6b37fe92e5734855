"""Device memory: each array lies between inaccessible guard pages.

The bytes before each array, and those after it up to a multiple of 32, contain signalling NaNs. A
kernel that writes there changes them, which `overwritten` detects; an access up to a megabyte
further away causes a fault, which runtime.cc reports with thread and line. New arrays are filled
with the same NaNs, so results computed from uninitialised elements are NaN.
"""

import ctypes
import mmap
import weakref
from typing import NamedTuple

import numpy as np

PAGE = mmap.PAGESIZE
GUARD = 1 << 20  # inaccessible bytes of address space before and after each array
RED_ZONE = 64  # poisoned bytes before an array, at least
# Signalling NaNs: arithmetic turns them into quiet ones, so no result equals the poison; a quiet
# NaN would keep its bits. Both 16-bit halves of POISON are NaNs in float16.
POISON = np.array([0x7FA57DA5, 0x7FA57DA5], np.uint32).tobytes()
POISON_16 = np.array([0x7FA57FA5, 0x7FA57FA5], np.uint32).tobytes()  # also in bfloat16
POISON_64 = np.array([0x7FF4A5A5A5A5A5A5], np.uint64).tobytes()  # POISON is a number in float64

_mprotect = ctypes.CDLL(None).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Extent(NamedTuple):
    """The memory of one array: addresses, and its 8 bytes of poison."""

    front: int  # start of the red zone
    start: int  # of the array
    end: int  # of the array, and start of the poisoned bytes after it
    guard: int  # start of the guard page after it
    poison: bytes


_live: dict[int, Extent] = {}  # by the address of the array


def empty(shape: int | tuple[int, ...], dtype: str | np.dtype = "float32") -> np.ndarray:
    """Return a device array filled with poison."""
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    padded = max(32, -(-nbytes // 32) * 32)  # arrays begin at sectors, as a GPU's do
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
    weakref.finalize(block, _live.pop, start)  # every view of `block` keeps it alive
    return block[:nbytes].view(dtype).reshape(shape)


def array(values: np.ndarray) -> np.ndarray:
    """Return a copy in device memory."""
    values = np.asarray(values)
    copy = empty(values.shape, values.dtype)
    copy[...] = values
    return copy


def owner(x: np.ndarray) -> object | None:
    """Return the buffer that holds the values of x; None if NumPy allocated the memory itself."""
    base = x
    while base is not None and not isinstance(base, memoryview):
        base = getattr(base, "base", None)  # some views have helper objects as base
    return None if base is None else base.obj


def holds(x: np.ndarray) -> bool:
    """Return whether x is a device array, or a view of one."""
    return isinstance(owner(x), mmap.mmap)


def extents() -> list[Extent]:
    """Return the extents of all live arrays, sorted by address."""
    return sorted(list(_live.values()))


def extent_of(x: np.ndarray) -> Extent:
    """Return the extent of the array that x is, or is a view of."""
    at = x.ctypes.data
    return next(e for e in list(_live.values()) if e.start <= at < e.guard)


def overwritten(x: np.ndarray) -> str | None:
    """Return on which side of x's array a kernel wrote, "before" or "behind"; None if neither."""
    extent = extent_of(x)
    front = ctypes.string_at(extent.front, extent.start - extent.front)
    if front != extent.poison * (len(front) // 8):
        return "before"
    behind = ctypes.string_at(extent.end, extent.guard - extent.end)
    expected = (extent.poison * 4)[32 - len(behind) :]  # the rest of the array's last 32 bytes
    return None if behind == expected else "behind"
