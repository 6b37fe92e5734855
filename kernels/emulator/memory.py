"""The device's memory: arrays that end where a page begins that nobody may touch.

In front of each array, and in the few bytes behind it that fill its last 16, lie signalling NaNs. A
kernel that writes there changes them, which `overwritten` sees; one that goes further faults, which
the runtime reports with thread and line. So an overrun never reaches Python's own memory. New
arrays are full of the same NaNs: what is read before it was written makes NaN of the result.
"""

import ctypes
import mmap
import weakref
from typing import NamedTuple

import numpy as np

PAGE = mmap.PAGESIZE
RED_ZONE = 64  # bytes in front of an array, at least
# A quiet NaN stays the same number when something is added to it; of this one a quiet one is made.
POISON = np.uint32(0x7FA5A5A5)

_mprotect = ctypes.CDLL(None).mprotect
_mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class _Extent(NamedTuple):
    """Addresses: the red zone begins, the array begins, it ends, the untouchable page begins."""

    front: int
    start: int
    end: int
    guard: int


_live: dict[int, _Extent] = {}  # by the address of the array


def empty(shape: int | tuple[int, ...], dtype: str | np.dtype = "float32") -> np.ndarray:
    """An array of the device, poisoned."""
    dtype = np.dtype(dtype)
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    padded = max(16, -(-nbytes // 16) * 16)  # float4 may be read from where a block begins
    pages = -(-(padded + RED_ZONE) // PAGE) * PAGE
    memory = mmap.mmap(-1, pages + PAGE)
    words = np.frombuffer(memory, np.uint32, pages // 4)
    words[:] = POISON
    front = words.ctypes.data
    if _mprotect(front + pages, PAGE, 0):
        raise MemoryError("a guard page could not be set up")
    block = np.frombuffer(memory, np.uint8, padded, pages - padded)
    start = front + pages - padded
    _live[start] = _Extent(front, start, start + nbytes, front + pages)
    weakref.finalize(block, _live.pop, start)  # every view of it keeps it alive
    return block[:nbytes].view(dtype).reshape(shape)


def array(values: np.ndarray) -> np.ndarray:
    """A copy on the device."""
    values = np.asarray(values)
    copy = empty(values.shape, values.dtype)
    copy[...] = values
    return copy


def holds(x: np.ndarray) -> bool:
    """Whether x is an array of the device, or a view of one."""
    base = x
    while base is not None and not isinstance(base, memoryview):
        base = getattr(base, "base", None)  # some of NumPy's views have helpers between them
    return base is not None and isinstance(base.obj, mmap.mmap)


def used_bytes() -> int:
    """What the arrays that are alive take, without their surroundings."""
    return sum(extent.end - extent.start for extent in list(_live.values()))


def overwritten(x: np.ndarray) -> str | None:
    """Where a kernel wrote outside of x, "before" or "behind" it, or None."""
    at = x.ctypes.data
    extent = next((e for e in _live.values() if e.start <= at < e.guard), None)
    if extent is None:
        return None
    poison = POISON.tobytes()
    front = ctypes.string_at(extent.front, extent.start - extent.front)
    if front != poison * (len(front) // 4):
        return "before"
    behind = ctypes.string_at(extent.end, extent.guard - extent.end)
    # The array need not end with a whole word.
    return None if (poison * 5)[-len(behind) or 20 :] == behind else "behind"
