"""State of the stand-in's device: counts of costly operations, recorded launches, host copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from minddpm.kernels.emulator.launch import EmulatorError


@dataclass
class Stats:
    """Counts of synchronisations, copies and launches.

    to_device: asynchronous copies from the host. asarray copies from pinned memory; other arrays
    are first copied into it. pageable_to_device: copies by set() directly from ordinary memory,
    which may synchronise.
    launches: CuPy's kernels, raw kernels and graphs, each counted once. A view needs no launch, nor
    do zeros and a copy from array to array. Functions that CuPy composes of several kernels count
    with these if minddpm uses them (LAUNCHES in arrays.py), others (pad, std) as one.
    """

    synchronisations: int = 0
    to_device: int = 0
    pageable_to_device: int = 0
    to_host: int = 0
    launches: int = 0
    raw_launches: int = 0  # of raw kernels, included in launches
    graph_launches: int = 0  # of graphs, included in launches

    def reset(self) -> None:
        """Set all counts to zero."""
        self.__init__()


class CUDARuntimeError(RuntimeError):
    """An error reported by CUDA; CuPy has a class of this name."""


class Capture:
    """The launches that a stream records, and what CUDA forbids meanwhile.

    Stricter than CUDA, on purpose: one stream records at a time; copies from the host and launches
    of graphs cannot be recorded; no event may be waited for, also none that was recorded before.
    """

    def __init__(self) -> None:
        self.stream: Any = None  # the one that records
        self._launches: list[Callable[[], None]] = []
        self._kept: list[np.ndarray] = []
        self._valid = True

    def begin(self, stream: Any) -> None:
        """Begin to record the launches in this stream."""
        self.forbids("begin_capture", self.stream)
        self.stream, self._valid = stream, True

    def forbids(self, operation: str, stream: Any = None) -> None:
        """Raise CUDARuntimeError if the operation is forbidden now; the capture has then failed.

        stream: in which the operation happens, by default the current one.
        """
        stream = stream or current_stream()
        if self.stream is None:
            return
        if stream is self.stream:
            problem = f"Unsupported: {operation} during a capture"
        elif stream.ptr == 0 and not self.stream.is_non_blocking:
            problem = (
                f"Implicit: {operation} in the null stream, which waits for the stream that "
                "records unless that was made with non_blocking=True"
            )
        else:
            return
        self._valid = False
        raise CUDARuntimeError(f"cudaErrorStreamCapture{problem}")

    def record(self, launch: Callable[[], None]) -> None:
        """Add a launch. Raises CUDARuntimeError if the capture has failed."""
        self._check()
        self._launches.append(launch)

    def keep(self, values: np.ndarray) -> None:
        """Keep an array as long as the graph: its pool does, and launches may have its address."""
        self._kept.append(values)

    def end(self, stream: Any) -> tuple[list[Callable[[], None]], list[np.ndarray]]:
        """Stop recording; return the launches, and arrays to keep for them.

        Raises CUDARuntimeError if the capture failed.
        """
        if stream is not self.stream:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream does not record")
        recorded, self._launches, self._kept = (self._launches, self._kept), [], []
        self.stream = None
        self._check()
        return recorded

    def _check(self) -> None:
        if not self._valid:
            raise CUDARuntimeError(
                "cudaErrorStreamCaptureInvalidated: operation failed due to a previous error "
                "during capture"
            )


class _Copy(NamedTuple):
    number: int
    source: np.ndarray
    values: bytes  # of the source when the copy began


class HostCopies:
    """Asynchronous copies from pinned memory that the device may not have finished.

    A program that overwrites the source without waiting sometimes copies the new values. This class
    detects the overwriting when the copy ends or the next one begins.
    """

    def __init__(self) -> None:
        self.begun = 0
        self._under_way: list[_Copy] = []

    def begin(self, source: np.ndarray) -> None:
        """Begin another copy. Raises EmulatorError as `end` does."""
        self._check()
        self.begun += 1
        self._under_way.append(_Copy(self.begun, source, source.tobytes()))

    def end(self, last: int) -> None:
        """Finish all copies up to this number.

        Raises EmulatorError if a source has changed since its copy began.
        """
        self._check()
        self._under_way = [copy for copy in self._under_way if copy.number > last]

    def _check(self) -> None:
        for copy in self._under_way:
            if copy.source.tobytes() != copy.values:
                self._under_way = []
                raise EmulatorError(
                    "pinned memory was overwritten while its copy to the device was under way: "
                    "wait for an event that was recorded after the copy"
                )


streams: list[Any] = []  # whose `with` blocks run, the innermost last; the null stream is first
stats = Stats()
capture = Capture()
host_copies = HostCopies()


def current_stream() -> Any:
    """Return the stream that launches go to."""
    return streams[-1]


def is_recorded() -> bool:
    """Return whether the current stream records what is launched in it."""
    return current_stream() is capture.stream


def synchronise(operation: str, copies: int | None = None, stream: Any = None) -> None:
    """Count a synchronisation with a stream, by default the current one.

    copies: number of the last host copy that is finished afterwards; None for all. Raises
    CUDARuntimeError as `Capture.forbids` does.
    """
    capture.forbids(operation, stream)
    stats.synchronisations += 1
    host_copies.end(host_copies.begun if copies is None else copies)


def launch_array_code(work: Callable[[], Any], launches: int = 1) -> bool:
    """Count launches of CuPy's kernels, whose work NumPy does; False if a stream records it."""
    if is_recorded():
        capture.record(work)
        return False
    capture.forbids("array code")
    stats.launches += launches
    return True


def copy_from_host(source: np.ndarray | None, pinned: bool) -> None:
    """Count a copy to the device. A pinned source must not change until the copy is finished."""
    capture.forbids("a copy from the host")
    if pinned:
        stats.to_device += 1
        if source is not None:
            host_copies.begin(source)
    else:
        stats.pageable_to_device += 1
