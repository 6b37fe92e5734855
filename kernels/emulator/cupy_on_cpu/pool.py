"""CuPy's memory pool: it keeps freed blocks for later arrays, and limits what the device gives.

Only sizes are modelled, by the rules of CuPy 14's pool: blocks are multiples of 512 bytes; an array
takes the smallest free block of its stream that is large enough, and what it does not need of it
stays free; neighbours that are free are merged. Each array itself lies in guarded memory of its own
(memory.py), which is unmapped when the array is freed, whatever the pool keeps.
"""

from __future__ import annotations

import gc
import os
from bisect import bisect_left, insort
from collections import deque
from operator import attrgetter
from threading import RLock
from typing import Any

from minddpm.kernels.emulator.cupy_on_cpu.state import current_stream

UNIT = 512  # bytes
_size = attrgetter("size")


class OutOfMemoryError(MemoryError):
    """An allocation exceeds the pool's limit; total: bytes that the pool has from the device."""

    def __init__(self, size: int, total: int, limit: int):
        super().__init__(
            f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes, limit "
            f"set to: {limit:,} bytes)."
        )


class _Block:
    """A part of one allocation from the device, between two others or None.

    arena: the free blocks of its stream, sorted by size; the block is one of them if it is free.
    """

    __slots__ = ("after", "arena", "before", "free", "size")

    def __init__(self, size: int, arena: list[_Block]):
        self.size, self.arena, self.free = size, arena, False
        self.before: _Block | None = None
        self.after: _Block | None = None

    def make_free(self) -> None:
        """Add the block to its arena."""
        self.free = True
        insort(self.arena, self, key=_size)

    def take(self) -> None:
        """Remove the block from its arena."""
        self.free = False
        self.arena.remove(self)

    def split(self, size: int) -> None:
        """Keep this many bytes; the others become a free block."""
        rest = _Block(self.size - size, self.arena)
        if rest.size:
            self.size = size
            self._join(rest, self.after)
            self._join(self, rest)
            rest.make_free()

    def merge_after(self) -> None:
        """Add the next block's bytes to this one."""
        self.size += self.after.size
        self._join(self, self.after.after)

    @staticmethod
    def _join(before: _Block, after: _Block | None) -> None:
        before.after = after
        if after is not None:
            after.before = before


class MemoryPointer:
    """Bytes allocated from a pool; they return to the pool when this object is destroyed."""

    def __init__(self, freed: deque[_Block], block: _Block | None):
        self._freed, self._block = freed, block

    def __del__(self) -> None:
        # Garbage collection may call this while the pool is at work, so the pool does the rest.
        if self._block is not None:
            self._freed.append(self._block)


class MemoryPool:
    """Device memory: blocks in use and free ones, together up to a limit.

    CUPY_GPU_MEMORY_LIMIT in the environment is the limit of a new pool, in bytes, or in percent of
    the device's memory, which is this machine's.
    """

    def __init__(self) -> None:
        self._arenas: dict[int, list[_Block]] = {}  # free blocks, by stream
        self._freed: deque[_Block] = deque()  # blocks that are not in their arena yet
        self._total = 0
        self._lock = RLock()
        limit = os.environ.get("CUPY_GPU_MEMORY_LIMIT", "0")
        if limit.endswith("%"):
            self.set_limit(fraction=float(limit[:-1]) / 100)
        else:
            self.set_limit(size=int(limit))

    def malloc(self, size: int) -> MemoryPointer:
        """Allocate this many bytes for the current stream.

        Raises OutOfMemoryError if no free block is large enough and the limit allows no new one,
        even after all free blocks were returned to the device.
        """
        size = -(-size // UNIT) * UNIT
        if not size:
            return MemoryPointer(self._freed, None)
        with self._lock:
            self._take_back()
            arena = self._arenas.setdefault(current_stream().ptr, [])
            found = bisect_left(arena, size, key=_size)
            if found < len(arena):
                block = arena[found]
                block.take()
                block.split(size)
            else:
                self._ask_device(size)
                block = _Block(size, arena)
        return MemoryPointer(self._freed, block)

    def _take_back(self) -> None:
        """Add blocks that were freed to their arenas, merged with neighbours that are free."""
        while self._freed:
            block = self._freed.popleft()
            if block.after is not None and block.after.free:
                block.after.take()
                block.merge_after()
            if block.before is not None and block.before.free:
                block = block.before
                block.take()
                block.merge_after()
            block.make_free()

    def _ask_device(self, size: int) -> None:
        """Count an allocation from the device. Raises as `malloc` does."""

        def fits() -> bool:
            return not self._limit or self._total + size <= self._limit

        if not fits() and size <= self._limit:
            self.free_all_blocks()
            if not fits():
                gc.collect()
                self.free_all_blocks()
        if not fits():
            raise OutOfMemoryError(size, self._total, self._limit)
        self._total += size

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        """Limit the bytes in blocks, used or free, or the fraction of the device; 0: no limit.

        Blocks that the pool already has are not affected, even beyond the limit.
        """
        if fraction is not None:
            if size is not None:
                raise ValueError("size and fraction cannot be specified at one time")
            if not 0 <= fraction <= 1:
                raise ValueError(f"memory limit fraction out of range: {fraction}")
            size = int(fraction * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        if size is not None and size < 0:
            raise ValueError(f"memory limit size out of range: {size}")
        self._limit = size or 0

    def get_limit(self) -> int:
        """Return the limit in bytes; 0 if there is none."""
        return self._limit

    def total_bytes(self) -> int:
        """Return the bytes of all blocks."""
        return self._total

    def free_bytes(self) -> int:
        """Return the bytes of the free blocks."""
        with self._lock:
            self._take_back()
            return sum(block.size for arena in self._arenas.values() for block in arena)

    def used_bytes(self) -> int:
        """Return the bytes that arrays hold."""
        with self._lock:
            return self._total - self.free_bytes()

    def free_all_blocks(self, stream: Any = None) -> None:
        """Return free blocks of one or all streams to the device, but no part of an allocation."""
        with self._lock:
            self._take_back()
            for ptr, arena in self._arenas.items():
                if stream is None or ptr == stream.ptr:
                    kept = [b for b in arena if b.before is not None or b.after is not None]
                    self._total -= sum(map(_size, arena)) - sum(map(_size, kept))
                    arena[:] = kept
