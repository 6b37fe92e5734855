"""What the stand-in for CuPy keeps about its device: counts of what costs time, a recording."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Stats:
    """How often the program did what a GPU makes it wait for, or what it was asked to run.

    launches: of CuPy's kernels and raw ones. A view costs none, and whatever writes an array at
    least one: functions that CuPy puts together from others (var, pad) count as one here.
    """

    synchronisations: int = 0
    to_device: int = 0  # copies from the host
    to_host: int = 0
    launches: int = 0
    raw_launches: int = 0  # those of raw kernels among them

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


stats = Stats()
capture = Capture()


def synchronise(what: str) -> None:
    """The host waits for the device here; impossible during a capture."""
    capture.forbids(what)
    stats.synchronisations += 1


def launch_array_code() -> None:
    """A kernel of CuPy's own, which NumPy does in its place at once: it cannot be recorded."""
    capture.forbids("array code (the stand-in records raw kernels only)")
    stats.launches += 1
