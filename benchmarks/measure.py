"""How it is measured: results are verified, contestants take turns, ratios are taken per round."""

import gc
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from minddpm import backend
from minddpm.gpucheck.arrays import WrongResultError as WrongResultError
from minddpm.gpucheck.arrays import verify as verify

# A thread pool keeps its threads spinning for some milliseconds after its work, in case there is
# more: long enough to disturb whoever is measured next.
PAUSE = 0.02


def called(function: Callable[..., Any], arguments: Iterable[Any], in_place: bool) -> Any:
    """What the function returns, or what it makes of (a copy of) its first argument."""
    if not in_place:
        return function(*arguments)
    arguments = [a.copy() if isinstance(a, np.ndarray) else a for a in arguments]
    function(*arguments)
    return arguments[0]


def device_clock() -> Callable[[], float]:
    """Seconds by the device's own clock, as a timer for pytest-benchmark.

    Each reading is an event behind all that was launched, and waits for it.
    """
    seconds, last = 0.0, None

    def device_seconds() -> float:
        nonlocal seconds, last
        cuda = backend.xp.cuda
        now = cuda.Event()
        now.record()
        now.synchronize()
        if last is not None:
            # From one to the next: milliseconds are float32 here, which a long time would use up.
            seconds += cuda.get_elapsed_time(last, now) / 1e3
        last = now
        return seconds

    return device_seconds


def synchronised(run: Callable[..., Any]) -> Callable[..., Any]:
    """run and a wait for the device, without which no more than the launches would be timed."""
    device = backend.xp.cuda.Device()

    def both(*arguments: Any) -> Any:
        result = run(*arguments)
        device.synchronize()
        return result

    return both


def interleave(
    contestants: dict[str, Callable[[], Any]],
    rounds: int,
    shortest: float = 0.03,
    progress: Callable[[], Any] = lambda: None,
) -> dict[str, list[float]]:
    """Seconds of one call, for each contestant and round.

    In every round each contestant has its turn, so that what else the machine does meets all of
    them. A turn is as many calls as last `shortest` seconds, after one that is not counted.
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
            time.sleep(PAUSE)
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
    """The name with the smallest median, or None if none of them was measured."""
    return min((n for n in names if n in seconds), key=lambda n: median(seconds[n]), default=None)


def ratio(seconds: dict[str, list[float]], slow: str, fast: str) -> float:
    """How many times as long as `fast` `slow` takes: the median of the ratios of the rounds."""
    return median([a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)])
