"""One training step taken apart: how often each kernel is launched, and the device's time in it.

The step is queued behind a wait, with events around each launch, so that host time does not count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import minddpm
from minddpm import backend
from minddpm.gpucheck import timings
from minddpm.gpucheck.checks import first_line, small_trainer
from minddpm.kernels.cuda.launch import observed_by

WARM_UP = 3


class Kernel(NamedTuple):
    """All launches of one kernel in a step."""

    name: str
    launches: int
    microseconds: float


class Breakdown(NamedTuple):
    """A step of `images` images. milliseconds: of the device, with all that CuPy adds itself.

    host: milliseconds until Python has launched it. problem: why there is none.
    """

    images: int
    kernels: list[Kernel]
    milliseconds: float | None
    host: float | None
    problem: str = ""

    @property
    def launches(self) -> int:
        return sum(kernel.launches for kernel in self.kernels)


def breakdown(quick: bool) -> Breakdown:
    """Take one step of the small UNet apart, in float32."""
    batch = timings.QUICK_BATCH if quick else timings.BATCH
    try:
        return _measured(small_trainer("cupy", "float32", minddpm.SMALL, batch).train_step, batch)
    except Exception as problem:  # any error of the device
        return Breakdown(batch, [], None, None, first_line(problem))


def _measured(run: Any, batch: int) -> Breakdown:
    cuda, spans = backend.xp.cuda, []
    _, host = timings.milliseconds(run, rounds=WARM_UP, calls=1)

    @contextmanager
    def between_events(name: str) -> Iterator[None]:
        start, end = cuda.Event(), cuda.Event()
        start.record()
        yield
        end.record()
        spans.append((name, start, end))

    first, last = cuda.Event(), cuda.Event()
    cuda.Device().synchronize()
    # Events make launching slower: the wait must cover all of it.
    timings.wait(4 * timings.CLOCK * host / 1e3)
    first.record()
    with observed_by(between_events):
        run()
    last.record()
    last.synchronize()
    times: dict[str, list[float]] = {}
    for name, start, end in spans:
        times.setdefault(name, []).append(1e3 * cuda.get_elapsed_time(start, end))
    kernels = [Kernel(name, len(each), sum(each)) for name, each in times.items()]
    kernels.sort(key=lambda kernel: -kernel.microseconds)
    return Breakdown(batch, kernels, cuda.get_elapsed_time(first, last), host)
