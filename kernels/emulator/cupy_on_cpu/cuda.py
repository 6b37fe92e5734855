"""cupy.cuda of the stand-in, and raw kernels: streams that record, and a device that is none.

Everything runs at once and in order, so streams and events have nothing to wait for; they are here
to be counted, and to refuse what CUDA refuses while a stream records its launches.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import numpy as np

from minddpm.kernels.emulator.cupy_on_cpu.array import ndarray
from minddpm.kernels.emulator.cupy_on_cpu.memory import (
    MemoryPool,
    OutOfMemoryError,
    alloc_pinned_memory,
    using_allocator,
)
from minddpm.kernels.emulator.cupy_on_cpu.state import CUDARuntimeError, capture, host_copies, stats
from minddpm.kernels.emulator.cupy_on_cpu.state import synchronise as _synchronise
from minddpm.kernels.emulator.launch import Library

# What CuPy has there, too; raw kernels are in cupy itself.
__all__ = [
    "Device", "Event", "Graph", "MemoryPool", "Stream", "alloc_pinned_memory",
    "get_current_stream", "get_elapsed_time", "memory", "nvrtc", "runtime", "using_allocator",
]  # fmt: skip
# How kernels run: the order of threads and blocks, and the mode (launch.py); and where the mode is
# "profile" what they cost, line by line, and how many operations each made.
emulation = SimpleNamespace(order=0, mode="plain", profile=[], flops=Counter())
ARCHITECTURE = "80"  # of the only device, and all that its compiler knows
SHARED_BYTES = 48 << 10  # of dynamic shared memory, unless a kernel is told to take more


# --- raw kernels ---------------------------------------------------------------------------------


class RawModule:
    """The kernels of a CUDA source, compiled by the emulator when one is first asked for.

    options: "-I<folder>" with its .cuh files and "-D<name>[=<value>]" count; CUDA's own headers,
    and what steers only the speed of the code, are left out.
    """

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc"):
        if not isinstance(options, tuple):
            raise TypeError("options must be a tuple")
        if backend != "nvrtc":
            raise ValueError(f"the stand-in stands for nvrtc, not for {backend}")
        self.code, self.options = code, options
        self._libraries: dict[str, Library] = {}  # by mode

    def get_function(self, name: str) -> RawKernel:
        """The kernel of this name. Raises CUDARuntimeError if there is none."""
        if name not in self._library().kernels:
            raise CUDARuntimeError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        return RawKernel(self, name)

    def compile(self, log_stream: TextIO | None = None) -> None:
        """Compile now. Raises RuntimeError with the compiler's words if it fails.

        log_stream: where they would go if it does not; the emulator's compiler has none to say.
        """
        self._library()

    def _library(self) -> Library:
        """The kernels in the mode in which they run now. Raises as `compile`."""
        mode = emulation.mode
        if mode not in self._libraries:
            defined = [o[2:].partition("=") for o in self.options if o.startswith("-D")]
            lines = [f"#define {name} {value or 1}\n" for name, _, value in defined]
            if lines:
                lines.append("#line 1\n")  # messages count from the first line of the code
            self._libraries[mode] = Library("".join(lines) + self.code, self._path(), mode)
        return self._libraries[mode]

    def _path(self) -> Path:
        """Where the source is, as far as can be told: in the folder of its .cuh files."""
        folders = [Path(o[2:]) for o in self.options if o.startswith("-I")]
        for folder in folders:
            for file in folder.glob("*.cu"):
                if file.read_text() == self.code:
                    return file
        ours = [folder for folder in folders if any(folder.glob("*.cuh"))]
        if len(ours) > 1:
            raise ValueError(f"the stand-in takes one folder of .cuh files, not {ours}")
        return (ours[0] if ours else Path()) / "kernel.cu"


class RawKernel:
    """A kernel, to be called as CuPy's."""

    def __init__(self, module: RawModule, name: str):
        self.name, self._module = name, module
        self.max_dynamic_shared_size_bytes = SHARED_BYTES

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: tuple[Any, ...],
        *,
        shared_mem: int = 0,
    ) -> None:
        """Run it, or record it if a stream records.

        Raises EmulatorError for what the emulator finds, such as a Python number, which CuPy passes
        with 8 bytes, for a parameter of 4.
        """
        if not all(isinstance(x, tuple) for x in (grid, block, args)):
            raise TypeError("grid, block and args must be tuples")
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise CUDARuntimeError(
                f"CUDA_ERROR_INVALID_VALUE: {shared_mem} bytes of shared memory, more than "
                f"max_dynamic_shared_size_bytes = {self.max_dynamic_shared_size_bytes}"
            )
        values = tuple(map(_as_argument, args))

        def run() -> None:
            library = self._module._library()
            library.launch(self.name, grid, block, values, shared=shared_mem, order=emulation.order)
            if library.mode == "profile":
                emulation.profile += library.profile()
                emulation.flops.update(library.flops())

        if capture.launches is None:
            stats.launches += 1
            stats.raw_launches += 1
            run()
        elif get_current_stream()._recording:
            capture.launches.append(run)
        else:
            raise CUDARuntimeError(
                f"cudaErrorStreamCaptureImplicit: {self.name} launched outside of the stream that "
                "records"
            )


def _as_argument(x: Any) -> Any:
    """What CuPy passes to a raw kernel for x."""
    if isinstance(x, ndarray):
        if not x.flags.c_contiguous:
            raise ValueError(
                f"an array of shape {x.shape} and strides {x.strides} is not C-contiguous: CuPy "
                "would pass its first address and say nothing"
            )
        return x._values
    if isinstance(x, np.generic):
        return x
    for kind, passed in ((bool, np.bool_), (int, np.int64), (float, np.float64)):
        if isinstance(x, kind):
            return passed(x)
    raise TypeError(f"Unsupported type {type(x)}")


# --- streams, graphs, events ---------------------------------------------------------------------


class Stream:
    """A queue of work. Only what is launched within `with stream:` goes through it."""

    null: Stream
    _entered: list[Stream] = []  # noqa: RUF012 - one for all streams

    def __init__(self, null: bool = False, non_blocking: bool = False):
        self._recording = False

    def __enter__(self) -> Stream:
        self._entered.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._entered.pop()

    def synchronize(self) -> None:
        """Wait until all its work is done."""
        _synchronise("Stream.synchronize")

    def record(self, event: Event | None = None) -> Event:
        """Record an event, a new one if none is given."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """What comes after waits for the event, on the device; here all goes in order anyway."""

    def begin_capture(self) -> None:
        """From now on record raw kernels instead of running them."""
        if self is Stream.null:
            raise CUDARuntimeError("cudaErrorStreamCaptureUnsupported: the null stream")
        capture.forbids("begin_capture")
        capture.launches, self._recording = [], True

    def end_capture(self) -> Graph:
        """Stop recording; what was recorded."""
        if not self._recording:
            raise CUDARuntimeError("cudaErrorIllegalState: the stream does not record")
        graph = Graph(capture.launches)
        capture.launches, self._recording = None, False
        return graph


Stream.null = Stream()


def get_current_stream() -> Stream:
    """The stream that launches go to."""
    return Stream._entered[-1] if Stream._entered else Stream.null


class Graph:
    """Recorded launches, with the arrays and numbers that they were given then."""

    def __init__(self, launches: list[Any]):
        self._launches = launches

    def launch(self, stream: Stream | None = None) -> None:
        """Run them all, in their order."""
        capture.forbids("Graph.launch")
        stats.launches += 1
        stats.graph_launches += 1
        for run in self._launches:
            run()


class Event:
    """A moment."""

    def __init__(self, block: bool = False, disable_timing: bool = False):
        self._seconds: float | None = None
        self._copies = 0  # that had begun before it

    def record(self, stream: Stream | None = None) -> None:
        """It is now."""
        self._seconds, self._copies = time.perf_counter(), host_copies.begun

    def synchronize(self) -> None:
        """Wait for it."""
        _synchronise("Event.synchronize", self._copies)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Milliseconds between two recorded events."""
    return (end_event._seconds - start_event._seconds) * 1e3


# --- the device ----------------------------------------------------------------------------------


class Device:
    """The only device."""

    compute_capability = ARCHITECTURE

    def __init__(self, device: int = 0):
        if device != 0:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.id = device

    def synchronize(self) -> None:
        """Wait until all work is done."""
        _synchronise("Device.synchronize")


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: 1,
    driverGetVersion=lambda: 12000,
    runtimeGetVersion=lambda: 12000,
    deviceSynchronize=lambda: _synchronise("deviceSynchronize"),
    getDeviceProperties=lambda device: {
        "name": b"CPU (emulated)", "major": 8, "minor": 0, "multiProcessorCount": 1,
        "sharedMemPerBlock": SHARED_BYTES, "warpSize": 32,
    },
)  # fmt: skip
memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
nvrtc = SimpleNamespace(getVersion=lambda: (12, 0), getSupportedArchs=lambda: (int(ARCHITECTURE),))
