"""How to measure: results are verified, implementations alternate, ratios are taken per round."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minddpm import backend
from minddpm.gpucheck.arrays import WrongResultError as WrongResultError
from minddpm.gpucheck.arrays import verify as verify

PAUSE, PAUSES = 0.01, 30  # seconds, and how many settle() waits at most


def settle() -> None:
    """Wait until all threads of this process rest.

    A library's threads spin when they have finished, and would take a core from whoever is timed
    next: OpenMP's for milliseconds, those of NumPy's OpenBLAS for a tenth of a second.
    """
    for _ in range(PAUSES):
        before = time.process_time()
        time.sleep(PAUSE)
        if time.process_time() - before < PAUSE / 10:
            return


def called(function: Callable[..., Any], arguments: Iterable[Any], in_place: bool) -> Any:
    """Return the result; if in_place, the copy of the first argument that the function modified."""
    if not in_place:
        return function(*arguments)
    arguments = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    function(*arguments)
    return arguments[0]


def device_clock() -> Callable[[], float]:
    """Return a timer for pytest-benchmark that reads the device's own clock, in seconds.

    Each reading records an event after all launched work and synchronises with it.
    """
    seconds, last = 0.0, None

    def device_seconds() -> float:
        nonlocal seconds, last
        cuda = backend.xp.cuda
        now = cuda.Event()
        now.record()
        now.synchronize()
        if last is not None:
            # Sum short intervals: CUDA reports float32 milliseconds, too coarse for long ones.
            seconds += cuda.get_elapsed_time(last, now) / 1e3
        last = now
        return seconds

    return device_seconds


def synchronised(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return run followed by a synchronisation, without which only launches would be timed."""
    device = backend.xp.cuda.Device()

    def run_and_synchronize(*arguments: Any) -> Any:
        result = run(*arguments)
        device.synchronize()
        return result

    return run_and_synchronize


def interleave(
    contestants: dict[str, Callable[[], Any]],
    rounds: int,
    shortest: float = 0.03,
    progress: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:
    """Return the seconds per call for each implementation and round.

    Every implementation has one turn in each round, so that other load on the machine affects all
    of them. A turn is an untimed call, then enough calls to last about `shortest` seconds. If one
    call lasts about `shortest` or longer, the turn is that single call, without an untimed one.
    """
    calls = {}
    for name, function in contestants.items():
        function()
        start = time.perf_counter()
        function()
        calls[name] = max(1, round(shortest / (time.perf_counter() - start)))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, function in contestants.items():
            gc.collect()
            settle()
            if calls[name] > 1:
                function()
            start = time.perf_counter()
            for _ in range(calls[name]):
                function()
            seconds[name].append((time.perf_counter() - start) / calls[name])
            progress()
    return seconds


def median(seconds: list[float]) -> float:
    return statistics.median(seconds)


def best(seconds: dict[str, list[float]], names: Iterable[str]) -> str | None:
    """Return the name with the smallest median, or None if none of them was measured."""
    return min((n for n in names if n in seconds), key=lambda n: median(seconds[n]), default=None)


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """Return the time of `slow` divided by that of `fast`: the median of the ratios per round."""
    return median([a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)])
