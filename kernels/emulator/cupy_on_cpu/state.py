"""What the stand-in for CuPy keeps about its device: counts of what costs time, a recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from minddpm.kernels.emulator.launch import EmulatorError


@dataclass
class Stats:
    """How often the program did what a GPU makes it wait for, or what it was asked to run.

    to_device: copies from the host for which nobody waits. CuPy's asarray makes them from pinned
    memory, into which it has copied what lay elsewhere; set() makes them from where the array is,
    and may have to wait where that is ordinary memory: pageable_to_device.
    launches: of CuPy's kernels, raw ones and graphs, each of which is one. A view costs none, and
    whatever writes an array at least one: functions that CuPy puts together from others (var, pad)
    count as one here.
    """

    synchronisations: int = 0
    to_device: int = 0
    pageable_to_device: int = 0
    to_host: int = 0
    launches: int = 0
    raw_launches: int = 0  # those of raw kernels among them
    graph_launches: int = 0  # those of graphs

    def reset(self) -> None:
        """Count from zero again."""
        self.__init__()


class CUDARuntimeError(RuntimeError):
    """What CUDA refuses; CuPy has a class of this name."""


@dataclass
class Capture:
    """What a stream has recorded so far; None while no stream records."""

    launches: list[Callable[[], None]] | None = None

    def forbids(self, what: str) -> None:
        """Raise CUDARuntimeError if a stream is recording."""
        if self.launches is not None:
            raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what} during a capture")


class _Copy(NamedTuple):
    number: int
    source: np.ndarray
    values: bytes  # of the source when the copy began


class HostCopies:
    """Copies from pinned memory that the device may not have made yet.

    It makes them when it comes to them. Whoever overwrites the source before, without waiting, has
    other numbers on the device, some of the time. Here they are found out when the copy ends or the
    next one begins.
    """

    def __init__(self) -> None:
        self.begun = 0
        self._under_way: list[_Copy] = []

    def begin(self, source: np.ndarray) -> None:
        """Another copy. Raises EmulatorError as `end`."""
        self._check()
        self.begun += 1
        self._under_way.append(_Copy(self.begun, source, source.tobytes()))

    def end(self, last: int) -> None:
        """The device has made all up to this number.

        Raises EmulatorError if a source is no longer what it was.
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


def synchronise(what: str, copies: int | None = None) -> None:
    """The host waits for the device here; impossible during a capture.

    copies: how many of host_copies are then over; None for all.
    """
    capture.forbids(what)
    stats.synchronisations += 1
    host_copies.end(host_copies.begun if copies is None else copies)


def launch_array_code() -> None:
    """A kernel of CuPy's own, which NumPy does in its place at once: it cannot be recorded."""
    capture.forbids("array code (the stand-in records raw kernels only)")
    stats.launches += 1


def copy_from_host(source: np.ndarray | None, pinned: bool) -> None:
    """A copy to the device begins. source: what must stay as it is until it is over, if pinned."""
    capture.forbids("a copy from the host")
    if pinned:
        stats.to_device += 1
        if source is not None:
            host_copies.begin(source)
    else:
        stats.pageable_to_device += 1
