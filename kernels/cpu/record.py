"""Recording for replay.py: lifetimes of arrays, and tasks of functions in planned memory."""

import ctypes
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.recorder import recorded_by

LINE = 64  # arrays begin at cache lines
Inputs = tuple[np.ndarray | float | None, ...]


class Lifetimes:
    """Notes the bytes of each array, and how many arrays had been made when it was freed."""

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.ends: list[int | None] = []
        self._references: list[Any] = []

    def empty(self, shape: Any, kind: Any) -> np.ndarray:
        x, i = np.empty(shape, kind), len(self.sizes)
        self.sizes.append(x.nbytes)
        self.ends.append(None)

        def freed(_: Any) -> None:
            self.ends[i] = len(self.sizes)

        self._references.append(weakref.ref(x, freed))  # a view of x keeps x alive
        return x

    def keep(self, x: np.ndarray) -> None:
        pass

    def add(self, function: int, pieces: int, numbers: tuple[int, ...]) -> None:
        pass

    def plan(self) -> tuple[list[int], int]:
        """Return where each array begins in one block of memory, and the bytes of the block.

        Large arrays first: each takes the lowest place that no array uses while it is alive.
        """
        n = len(self.sizes)
        ends = [n + 1 if end is None else end for end in self.ends]
        starts, placed, total = [0] * n, [], 0
        for i in sorted(range(n), key=lambda i: -self.sizes[i]):
            size = -(-self.sizes[i] // LINE) * LINE
            meanwhile = sorted(
                (start, end) for j, start, end in placed if j < ends[i] and i < ends[j]
            )
            at = 0
            for start, end in meanwhile:
                if start >= at + size:
                    break
                at = max(at, end)
            starts[i], total = at, max(total, at + size)
            placed.append((i, at, at + size))
        return starts, total


class Tasks(NamedTuple):
    """The tasks of one call of a function."""

    inputs: tuple[np.ndarray | None, ...]
    output: Any  # an array, a tuple of arrays or None
    arguments: list[np.ndarray]
    rows: np.ndarray  # int64 [tasks, 3]: address, pieces, address of the arguments


class Record:
    """Functions called one after the other, and the memory that all their arrays share.

    broken: whether a call made other arrays than those whose lifetimes were noted, or kept one
    longer. It then got other memory, so that its results are right, but cannot be replayed.
    """

    def __init__(self, lifetimes: Lifetimes):
        self._sizes = lifetimes.sizes
        starts, total = lifetimes.plan()
        _return_freed_memory()
        block = np.empty(total + LINE, np.uint8)
        first = -block.ctypes.data % LINE
        self._memory, self._starts = memoryview(block), [first + start for start in starts]
        self._range = range(block.ctypes.data, block.ctypes.data + block.size)
        self._references: list[Any] = [None] * len(starts)
        self._kept: list[np.ndarray] = []  # weights, working memory, constants
        self._noted: list[tuple[int, int, np.ndarray]] | None = None
        self._made, self.broken = 0, False
        self.calls: list[Tasks] = []

    # --- as a Recorder ---

    def empty(self, shape: Any, kind: Any) -> np.ndarray:
        i, size = self._made, int(np.prod(shape)) * np.dtype(kind).itemsize
        self._made += 1
        if i >= len(self._sizes) or self._sizes[i] != size or self._is_used(i):
            self.broken = True
            return np.empty(shape, kind)
        x = np.ndarray(shape, kind, self._memory, self._starts[i])
        self._references[i] = weakref.ref(x)
        return x

    def _is_used(self, i: int) -> bool:
        """Return whether an array that is still alive has a part of the memory of array i."""
        start, end = self._starts[i], self._starts[i] + self._sizes[i]
        return any(
            self._starts[j] < end
            and start < self._starts[j] + self._sizes[j]
            and self._references[j] is not None
            and self._references[j]() is not None
            for j in range(i)
        )

    def keep(self, x: np.ndarray) -> None:
        if self._noted is not None and x.__array_interface__["data"][0] not in self._range:
            self._kept.append(x)

    def add(self, function: int, pieces: int, numbers: tuple[int, ...]) -> None:
        if self._noted is not None:
            self._noted.append((function, pieces, np.array(numbers, np.int64)))

    # --- calls ---

    def record(self, function: Callable[..., Any], inputs: Inputs) -> Any:
        """Call the function with copies of the inputs, and note its tasks; return its output."""
        own, self._noted = tuple(map(_own, inputs)), []
        try:
            with recorded_by(self):
                output = function(*own)
            rows = [(address, pieces, a.ctypes.data) for address, pieces, a in self._noted]
            table, arguments = np.array(rows, np.int64), [a for _, _, a in self._noted]
            self.calls.append(Tasks(own, output, arguments, table.reshape(-1, 3)))
        finally:
            self._noted = None
        return output

    def repeat(self, i: int, function: Callable[..., Any], inputs: Inputs) -> Any:
        """Call the i-th function in the same memory as it was recorded; the first one first."""
        if i == 0:
            self._made = 0
        self._copy(i, inputs)
        with recorded_by(self):
            return function(*self.calls[i].inputs)

    def replay(self, i: int, inputs: Inputs) -> Any:
        """Run the tasks of the i-th call for other inputs; return its output."""
        self._copy(i, inputs)
        threads.run_list(self.calls[i].rows)
        return self.calls[i].output

    def _copy(self, i: int, inputs: Inputs) -> None:
        for own, x in zip(self.calls[i].inputs, inputs, strict=True):
            if own is not None:
                own[...] = x


def _own(x: np.ndarray | float | None) -> np.ndarray | None:
    """Return a copy of an array, or a number as a 0-d float64 array."""
    return x if x is None else np.array(x, x.dtype if isinstance(x, np.ndarray) else np.float64)


def _return_freed_memory() -> None:
    """Give the system the memory of freed arrays: the block will take its place (memory.py)."""
    with suppress(OSError, AttributeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)
