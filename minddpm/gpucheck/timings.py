"""What a timing is, and how it is made: by the device's clock, after the result was verified.

The emulator is not timed: its speed says nothing about a GPU.
"""

import gc
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minddpm import backend
from minddpm.gpucheck.checks import first_line

TOLERANCE = 1e-4
BATCH, QUICK_BATCH = 128, 16
CALLS = 10  # calls between two events
SECONDS = 1.0  # after which no further round begins
# Keeps the device busy until the host has queued all calls. Without it, the time of a short kernel
# would be the time that Python takes to launch it.
WAIT = """extern "C" __global__ void wait(long long cycles) {
    long long start = clock64();
    while (clock64() - start < cycles) {}
}"""
CYCLES = 20_000_000  # at least: 10 to 15 ms
CLOCK = 2e9  # cycles a second, about the fastest GPU's: a slower one waits longer


class NotAvailableError(Exception):
    """Raised if what is to be timed is not installed here, or the GPU does not have it."""


class Timing(NamedTuple):
    """The time that one implementation (who) takes for one task (what), alone on the device.

    milliseconds: of the device; None if the result was wrong or the code failed; problem describes
    the error. queued: of the device, if several calls are launched before the first one starts.
    host: milliseconds until Python has launched it. memory: bytes of the device that a step needed.
    images: of a call. flops: the count by the definition. bytes: that are read and written.
    missing: why it cannot be timed here.
    """

    what: str
    who: str
    milliseconds: float | None = None
    host: float | None = None
    queued: float | None = None
    memory: int | None = None
    images: int | None = None
    flops: int | None = None
    bytes: int | None = None
    problem: str = ""
    missing: str = ""

    @property
    def images_per_second(self) -> float | None:
        return 1e3 * self.images / self.milliseconds if self.images and self.milliseconds else None

    @property
    def gflops(self) -> float | None:
        """Effective GFLOP/s: from `flops`, even if the code needs fewer operations."""
        return self.flops / self.milliseconds / 1e6 if self.flops and self.milliseconds else None

    @property
    def gigabytes(self) -> float | None:
        """GB/s, if the bytes that move are known."""
        return self.bytes / self.milliseconds / 1e6 if self.bytes and self.milliseconds else None


Run = Callable[[], Any]


class Task(NamedTuple):
    """A timing to be made: its two names, how it is prepared, and how often it is repeated.

    prepare: returns the function to time; raises if its result is wrong. calls: between two events.
    queued: as many calls are also timed between two events, 0 if they are not.
    """

    what: str
    who: str
    prepare: Callable[[], Run]
    rounds: int
    calls: int = CALLS
    queued: int = 0
    images: int | None = None
    flops: int | None = None
    bytes: int | None = None

    def __call__(self) -> Timing:
        timing = Timing(self.what, self.who, images=self.images, flops=self.flops, bytes=self.bytes)
        try:
            before = device_memory()
            run = self.prepare()
            host = launching_time(run, self.rounds)
            single = device_time(run, self.rounds, self.calls, host)
            queued = device_time(run, self.rounds, self.queued, host) if self.queued else None
            # A single kernel's arrays may lie in what the pool already had.
            memory = max(0, memory_in_use() - before) if self.images else None
        except NotAvailableError as why:
            return timing._replace(missing=str(why))
        except Exception as problem:  # a wrong result, or any error of the device
            return timing._replace(problem=first_line(problem))
        return timing._replace(milliseconds=single, host=host, queued=queued, memory=memory)


def device_memory() -> int:
    """Return the bytes of the device in use, after all pools have released what is free."""
    gc.collect()
    backend.xp.get_default_memory_pool().free_all_blocks()
    if "torch" in sys.modules:
        sys.modules["torch"].cuda.empty_cache()
    return memory_in_use()


def memory_in_use() -> int:
    """Return the bytes of the device in use, by all processes. Pools keep what was ever needed."""
    free, total = backend.xp.cuda.Device().mem_info
    return total - free


def wait(cycles: float) -> None:
    """Keep the device busy for so many cycles, at least CYCLES, while the host queues calls."""
    kernel = backend.xp.RawKernel(WAIT, "wait")
    kernel((1,), (1,), (np.int64(max(CYCLES, cycles)),))


def launching_time(run: Run, rounds: int) -> float:
    """Return the milliseconds until run() returns on an idle device: a median, after a warm-up."""
    for _ in range(3):
        run()
    times = []
    for _ in range(min(rounds, 5)):
        backend.xp.cuda.Device().synchronize()
        begun = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begun))
    return statistics.median(times)


def device_time(run: Run, rounds: int, calls: int, host: float) -> float:
    """Return the milliseconds of one call by the device's events: a median over rounds.

    calls: number of calls between two events. The time of a single call includes its launches by
    the host; several calls are all queued on the device before the first one starts, so that they
    take the device's time alone. host: the launching_time.
    """
    cuda, times, last = backend.xp.cuda, [], time.perf_counter() + SECONDS
    while len(times) < rounds and (len(times) < 3 or time.perf_counter() < last):
        start, end = cuda.Event(), cuda.Event()
        cuda.Device().synchronize()
        if calls > 1:
            wait(1.5 * CLOCK * host / 1e3 * calls)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        times.append(cuda.get_elapsed_time(start, end) / calls)
    return statistics.median(times)
