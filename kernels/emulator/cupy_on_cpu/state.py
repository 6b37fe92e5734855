"""State of the stand-in's device: counts of costly operations, recorded launches, host copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
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


@dataclass
class Capture:
    """The launches that a stream has recorded; None while no stream records.

    kept: arrays made meanwhile in a pool of their own. The pool keeps their memory when they are
    freed, and the launches may have their addresses.
    """

    launches: list[Callable[[], None]] | None = None
    kept: list[np.ndarray] = field(default_factory=list)

    def forbids(self, operation: str) -> None:
        """Raise CUDARuntimeError if a stream is recording."""
        if self.launches is not None:
            raise CUDARuntimeError(
                f"cudaErrorStreamCaptureUnsupported: {operation} during a capture"
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


stats = Stats()
capture = Capture()
host_copies = HostCopies()


def synchronise(operation: str, copies: int | None = None) -> None:
    """Count a synchronisation of host and device. Raises CUDARuntimeError during a capture.

    copies: number of the last host copy that is finished afterwards; None for all.
    """
    capture.forbids(operation)
    stats.synchronisations += 1
    host_copies.end(host_copies.begun if copies is None else copies)


def launch_array_code(work: Callable[[], Any], launches: int = 1) -> bool:
    """Count launches of CuPy's kernels, whose work NumPy does; False if a stream records it."""
    if capture.launches is not None:
        capture.launches.append(work)
        return False
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
