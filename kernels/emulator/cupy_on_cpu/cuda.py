"""The stand-in for cupy.cuda, and raw kernels: streams that record, and an emulated device.

Everything runs immediately and in order, so streams and events never wait. They exist to count
synchronisations, and to raise for operations that CUDA forbids while a stream records launches.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

import numpy as np

from minddpm.kernels.emulator.cupy_on_cpu import nccl
from minddpm.kernels.emulator.cupy_on_cpu.arrays import ndarray
from minddpm.kernels.emulator.cupy_on_cpu.memory import (
    alloc_pinned_memory,
    default_pool,
    using_allocator,
)
from minddpm.kernels.emulator.cupy_on_cpu.pool import MemoryPool, OutOfMemoryError
from minddpm.kernels.emulator.cupy_on_cpu.state import (
    CUDARuntimeError,
    capture,
    host_copies,
    is_recorded,
    stats,
    streams,
)
from minddpm.kernels.emulator.cupy_on_cpu.state import current_stream as get_current_stream
from minddpm.kernels.emulator.cupy_on_cpu.state import synchronise as _synchronise
from minddpm.kernels.emulator.launch import Library, is_structure
from minddpm.kernels.emulator.profile import Line

# Names of cupy.cuda only; raw kernels belong to cupy itself.
__all__ = [
    "Device", "Event", "Graph", "MemoryPool", "Stream", "alloc_pinned_memory",
    "get_current_stream", "get_elapsed_time", "memory", "nccl", "nvrtc", "runtime",
    "using_allocator",
]  # fmt: skip
# How kernels run: order of threads and blocks, and mode (launch.py). In mode "profile" the costs of
# their lines are added to profile, and their operations to operations.
emulation = SimpleNamespace(order=0, mode="plain", profile=[], operations=Counter())
ARCHITECTURE = "80"  # compute capability of the device, the only one that its compiler supports
MEMORY = 16 << 30  # bytes of the device
MULTIPROCESSORS = 1  # blocks run one after another
SHARED_BYTES = 48 << 10  # dynamic shared memory of a block, unless a kernel raises its limit


@contextmanager
def profiling() -> Iterator[tuple[list[Line], Counter]]:
    """Within the block kernels run in mode "profile": yield their lines and their operations."""
    before = vars(emulation).copy()
    emulation.mode, emulation.profile, emulation.operations = "profile", [], Counter()
    try:
        yield emulation.profile, emulation.operations
    finally:
        vars(emulation).update(before)


# --- raw kernels ---------------------------------------------------------------------------------


class RawModule:
    """The kernels of a CUDA source, compiled by the emulator when the first one is requested.

    options: "-I<folder>" of its .cuh files and "-D<name>[=<value>]" are used; folders of CUDA's
    headers, and options that affect only speed, are ignored.
    """

    def __init__(self, *, code: str, options: tuple[str, ...] = (), backend: str = "nvrtc"):
        if not isinstance(options, tuple):
            raise TypeError("options must be a tuple")
        if backend != "nvrtc":
            raise ValueError(f"backend {backend!r} is not emulated: use 'nvrtc'")
        self.code, self.options = code, options
        self._libraries: dict[str, Library] = {}  # by mode

    def get_function(self, name: str) -> RawKernel:
        """Return the kernel of this name. Raises CUDARuntimeError if there is none."""
        if name not in self._library().kernels:
            raise CUDARuntimeError(f"CUDA_ERROR_NOT_FOUND: named symbol not found: {name}")
        return RawKernel(self, name)

    def compile(self, log_stream: TextIO | None = None) -> None:
        """Compile now. Raises RuntimeError with the compiler's message if that fails.

        log_stream: for the log of a successful compilation, which is empty here.
        """
        self._library()

    def _library(self) -> Library:
        """Return the kernels compiled for the current mode. Raises as `compile` does."""
        mode = emulation.mode
        if mode not in self._libraries:
            defined = [o[2:].partition("=") for o in self.options if o.startswith("-D")]
            lines = [f"#define {name} {value or 1}\n" for name, _, value in defined]
            if lines:
                lines.append("#line 1\n")  # line numbers in messages start at the code itself
            self._libraries[mode] = Library("".join(lines) + self.code, self._path(), mode)
        return self._libraries[mode]

    def _path(self) -> Path:
        """Return the .cu file with this code if there is one, else a name beside its .cuh files."""
        folders = [Path(o[2:]) for o in self.options if o.startswith("-I")]
        for folder in folders:
            for file in folder.glob("*.cu"):
                if file.read_text() == self.code:
                    return file
        with_headers = [folder for folder in folders if any(folder.glob("*.cuh"))]
        if len(with_headers) > 1:
            raise ValueError(
                f"{with_headers} all have .cuh files: the stand-in supports one such folder"
            )
        return (with_headers[0] if with_headers else Path()) / "kernel.cu"


class RawKernel:
    """A kernel, called as in CuPy."""

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
        """Run the kernel, or record the launch if the current stream records.

        Raises EmulatorError for errors that the emulator finds, such as a Python number, which CuPy
        passes with 8 bytes, for a parameter of 4 bytes.
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
                emulation.operations.update(library.operations())

        if is_recorded():
            capture.record(run)
            return
        capture.forbids(f"a launch of {self.name}")
        stats.launches += 1
        stats.raw_launches += 1
        run()


def _as_argument(x: Any) -> Any:
    """Return the value that CuPy passes to a raw kernel for x."""
    if isinstance(x, ndarray):
        if not x.flags.c_contiguous:
            raise ValueError(
                f"an array of shape {x.shape} and strides {x.strides} is not C-contiguous, and "
                "CuPy would silently pass its address: use ascontiguousarray"
            )
        return x._values
    if isinstance(x, np.generic) or is_structure(x):
        return x
    for kind, scalar in ((bool, np.bool_), (int, np.int64), (float, np.float64)):
        if isinstance(x, kind):
            return scalar(x)
    raise TypeError(f"Unsupported type {type(x)}")


# --- streams, graphs, events ---------------------------------------------------------------------


class Stream:
    """A queue of work. Launches within `with stream:` go to it."""

    null: Stream
    _numbers = itertools.count(1)

    def __init__(self, null: bool = False, non_blocking: bool = False):
        self.ptr = 0 if null else next(self._numbers)
        self.is_non_blocking = non_blocking

    def __enter__(self) -> Stream:
        streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        streams.pop()

    def synchronize(self) -> None:
        """Wait until all work of the stream is done."""
        _synchronise("Stream.synchronize", stream=self)

    def record(self, event: Event | None = None) -> Event:
        """Record an event, by default a new one, and return it."""
        event = event or Event()
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Make later work of the stream wait for the event: nothing to do, work runs in order."""

    def begin_capture(self) -> None:
        """Begin to record raw kernels instead of running them."""
        if self.ptr == 0:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        capture.begin(self)

    def end_capture(self) -> Graph:
        """Stop recording, and return the recorded launches."""
        return Graph(*capture.end(self))


Stream.null = Stream(null=True)
streams.append(Stream.null)


class Graph:
    """Recorded launches, with their arguments at the time of recording."""

    def __init__(self, launches: list[Any], kept: list[np.ndarray]):
        self._launches, self._kept = launches, kept

    def launch(self, stream: Stream | None = None) -> None:
        """Run all launches, in the recorded order."""
        capture.forbids("Graph.launch", stream)
        stats.launches += 1
        stats.graph_launches += 1
        for run in self._launches:
            run()


class Event:
    """A point in a stream's work, with its time."""

    def __init__(self, block: bool = False, disable_timing: bool = False):
        self._seconds: float | None = None
        self._copies = 0  # number of host copies begun before the event

    def record(self, stream: Stream | None = None) -> None:
        """Place the event after all work so far."""
        self._seconds, self._copies = time.perf_counter(), host_copies.begun

    def synchronize(self) -> None:
        """Wait until the device has reached the event."""
        _synchronise("Event.synchronize", self._copies, capture.stream)


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Return the milliseconds between two recorded events."""
    return (end_event._seconds - start_event._seconds) * 1e3


# --- the device ----------------------------------------------------------------------------------


class Device:
    """The only device, number 0."""

    compute_capability = ARCHITECTURE

    def __init__(self, device: int = 0):
        if device != 0:
            raise CUDARuntimeError("cudaErrorInvalidDevice: invalid device ordinal")
        self.id, self.attributes = device, {"MultiProcessorCount": MULTIPROCESSORS}

    @property
    def mem_info(self) -> tuple[int, int]:
        """Free and total bytes: of 16 GiB, from which only the default pool takes any."""
        return MEMORY - default_pool.total_bytes(), MEMORY

    def use(self) -> None:
        """Make this device current: it is the only one."""

    def synchronize(self) -> None:
        """Wait until all work is done."""
        _synchronise("Device.synchronize", stream=capture.stream)


runtime = SimpleNamespace(
    CUDARuntimeError=CUDARuntimeError,
    getDeviceCount=lambda: 1,
    driverGetVersion=lambda: 12000,
    runtimeGetVersion=lambda: 12000,
    deviceSynchronize=lambda: _synchronise("deviceSynchronize", stream=capture.stream),
    getDeviceProperties=lambda device: {
        "name": b"CPU (emulated)", "major": 8, "minor": 0, "multiProcessorCount": MULTIPROCESSORS,
        "sharedMemPerBlock": SHARED_BYTES, "warpSize": 32,
    },
)  # fmt: skip
memory = SimpleNamespace(OutOfMemoryError=OutOfMemoryError)
nvrtc = SimpleNamespace(getVersion=lambda: (12, 0), getSupportedArchs=lambda: (int(ARCHITECTURE),))
