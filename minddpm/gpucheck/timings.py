"""Timings by the device's clock: all rungs, plain CuPy, PyTorch, training and sampling steps.

The emulator is not timed: its speed says nothing about a GPU. Each result is compared with the
reference before the code is timed.
"""

import importlib.util
import statistics
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

import minddpm
from minddpm import backend
from minddpm.diffusion.sampling import Step
from minddpm.gpucheck.arrays import mapped, verify
from minddpm.gpucheck.checks import (
    TINY,
    TRAINING_TOLERANCES,
    first_line,
    losses,
    random_unet,
    reference_losses,
    sampling,
    small_trainer,
)
from minddpm.gpucheck.convolutions import Convolution, rounded, sums_tolerance
from minddpm.kernels import cuda, reference
from minddpm.kernels.cuda import ladder, winograd
from minddpm.kernels.cuda.ladder import (
    FUSED_BACKWARD,
    RUNGS,
    TENSOR_CORES,
    Rung,
    Sizes,
    available_rungs,
)
from minddpm.kernels.cuda.launch import blocks

CONVOLUTIONS = {  # (H, C, C_out) of the small UNet
    "28x28 32->32": (28, 32, 32),
    "14x14 64->64": (14, 64, 64),
    "7x7 128->64": (7, 128, 64),
}
BATCH, QUICK_BATCH = 128, 16
BACKENDS = ("cupy", "cupy-reference")
TOLERANCE = 1e-4
CALLS = 10  # calls between two events
# Keeps the device busy until the host has queued all calls. Without it, the time of a short kernel
# would be the time that Python takes to launch it.
WAIT = """extern "C" __global__ void wait(long long cycles) {
    long long start = clock64();
    while (clock64() - start < cycles) {}
}"""
CYCLES = 20_000_000  # at least: 10 to 15 ms
CLOCK = 2e9  # cycles a second, about the fastest GPU's: a slower one waits longer
STEPS = 3  # training or sampling steps that are queued behind a wait


class Timing(NamedTuple):
    """The time that one implementation (who) takes for one task (what), alone on the device.

    milliseconds: of the device; None if the result was wrong or the code failed; problem describes
    the error. host: milliseconds until Python has launched it. flops: the count by the definition.
    bytes: that are read and written.
    """

    what: str
    who: str
    milliseconds: float | None
    host: float | None = None
    flops: int | None = None
    bytes: int | None = None
    problem: str = ""

    @property
    def gflops(self) -> float | None:
        """Effective GFLOP/s: from `flops`, even if the code needs fewer operations."""
        return self.flops / self.milliseconds / 1e6 if self.flops and self.milliseconds else None

    @property
    def gigabytes(self) -> float | None:
        """GB/s, if the bytes that move are known."""
        return self.bytes / self.milliseconds / 1e6 if self.bytes and self.milliseconds else None


Run = Callable[[], Any]
Runner = tuple[Run, Callable[[Any], Any]]


class Task(NamedTuple):
    """A timing to be made: its two names, how it is prepared, and how often it is repeated.

    prepare: returns the function to time; raises if its result is wrong.
    """

    what: str
    who: str
    prepare: Callable[[], Run]
    rounds: int
    calls: int = CALLS
    flops: int | None = None
    bytes: int | None = None

    def __call__(self) -> Timing:
        counts = self.flops, self.bytes
        try:
            times = milliseconds(self.prepare(), self.rounds, self.calls)
        except Exception as problem:  # a wrong result, or any error of the device
            return Timing(self.what, self.who, None, None, *counts, first_line(problem))
        return Timing(self.what, self.who, *times, *counts)


def wait(cycles: float) -> None:
    """Keep the device busy for so many cycles, at least CYCLES, while the host queues calls."""
    kernel = backend.xp.RawKernel(WAIT, "wait")
    kernel((1,), (1,), (np.int64(max(CYCLES, cycles)),))


def milliseconds(run: Callable[[], Any], rounds: int, calls: int = CALLS) -> tuple[float, float]:
    """Return the device's and the host's time of one call: medians over rounds, after a warm-up.

    The device's by its events. calls: number of calls between two events. The time of a single call
    includes its launches by the host; several calls are all queued on the device before the first
    one starts, so that they take the device's time alone. The host's is that until run() returns.
    """
    cuda = backend.xp.cuda
    for _ in range(3):
        run()
    launching = []
    for _ in range(min(rounds, 5)):
        cuda.Device().synchronize()
        begun = time.perf_counter()
        run()
        launching.append(time.perf_counter() - begun)
    host = statistics.median(launching)
    times = []
    for _ in range(rounds):
        start, end = cuda.Event(), cuda.Event()
        cuda.Device().synchronize()
        if calls > 1:
            wait(1.5 * CLOCK * host * calls)
        start.record()
        for _ in range(calls):
            run()
        end.record()
        end.synchronize()
        times.append(cuda.get_elapsed_time(start, end) / calls)
    return statistics.median(times), 1e3 * host


def tasks(quick: bool) -> list[Task]:
    """Return all timings, in the order of the table; quick: smaller batches, fewer rounds."""
    batch, rounds = (QUICK_BATCH, 5) if quick else (BATCH, 21)
    return [
        *(
            _training_step(name, precision, minddpm.SMALL, batch, rounds, steps)
            for name, precision in (*((n, "float32") for n in BACKENDS), *_tensor_cores())
            for steps in (1, STEPS)
        ),
        *(
            _sampling_step(name, replay, minddpm.SMALL, batch, rounds, steps)
            for name, replay in (("cupy", True), *((name, False) for name in BACKENDS))
            for steps in (1, STEPS)
        ),
        *_convolutions(batch, rounds),
    ]


# --- convolutions --------------------------------------------------------------------------------


def _convolutions(batch: int, rounds: int) -> list[Task]:
    contestants = [f"rung {name}" for name in available_rungs()]
    contestants += ["rung 5 Winograd", "chosen (cupy)", "cupy-reference"]
    contestants += ["PyTorch, channels_last"] * _torch_on_cuda()
    return [
        _convolution(name, Convolution(batch, H, H, C, C_out), backward, who, rounds)
        for name, (H, C, C_out) in CONVOLUTIONS.items()
        for backward in (False, True)
        for who in contestants
    ]


@cache
def _expected(c: Convolution, backward: bool, stored: str) -> Any:
    """Return the reference's result, for all that are compared with it."""
    x, w, b, gy = (rounded(array, stored) for array in c.arrays()[:4])
    if backward:
        return reference.conv2d_backward(gy, x, w, 1, c.padding)[:2]
    return reference.conv2d(x, w, b, 1, c.padding)


def _convolution(name: str, c: Convolution, backward: bool, who: str, rounds: int) -> Task:
    def prepare() -> Run:
        minddpm.set_backend("cupy")
        rung = RUNGS.get(who.removeprefix("rung "))
        stored = "float32" if rung is None else rung.stored
        x, w, b, gy = (rounded(array, stored) for array in c.arrays()[:4])
        make = _pytorch if who.startswith("PyTorch") else _ours
        run, result = make(who, c, backward, x, w, b, gy)
        tolerance = max(TOLERANCE, sums_tolerance(rung, _depth(c, rung))) if rung else TOLERANCE
        verify(result(run()), _expected(c, backward, stored), tolerance)
        return run

    what = f"conv {name}{' backward' * backward}, {c.N} images"
    flops = 2 * c.N * c.H * c.W * c.KH * c.KW * c.C * c.C_out * (1 + backward)
    return Task(what, who, prepare, rounds, flops=flops)


def _depth(c: Convolution, rung: Rung) -> int:
    """Return the most products that one of the rung's sums has; gw is added up slice by slice."""
    s = Sizes(c.N, c.H, c.W, c.C, c.H, c.W, c.C_out, c.KH, c.KW, 1, 1, 1)
    tiles = blocks(s.window, rung.rows) * blocks(s.C_out, rung.columns)
    slices = ladder.weight_slices(s, rung, tiles)[0] if rung.file in FUSED_BACKWARD else 1
    return max(c.KH * c.KW * max(c.C, c.C_out), blocks(s.pixels, slices))


def _ours(who: str, c: Convolution, backward: bool, *arrays: np.ndarray) -> Runner:
    """Return the function to time, and one that maps its result to y, or to gx and gw."""
    x, w, b, gy = mapped(backend.xp.asarray, arrays)
    s = Sizes.of((x,), w.shape, 1, c.padding)
    y = backend.xp.empty(gy.shape, "float32")
    rung = RUNGS.get(who.removeprefix("rung "))
    if rung is not None:
        if backward and rung.file in FUSED_BACKWARD:  # as in training: gw in slices of the pixels
            return lambda: ladder.backward(s, gy, (x,), w, rung=rung), lambda r: (*r.gxs, r.w)
        if backward:
            run = partial(ladder.separate_gradients, s, gy, (x,), w, rung)
            return run, lambda r: (*r[0], r[1])
        return lambda: ladder.forward(s, (x,), w, b, y, rung=rung), lambda _: y
    if who == "rung 5 Winograd":
        if backward:
            return lambda: winograd.backward(s, gy, (x,), w), lambda r: (*r.gxs, r.w)
        return lambda: winograd.forward(s, (x,), w, b, y), lambda _: y
    kernels = reference if who == "cupy-reference" else cuda
    if backward:
        return lambda: kernels.conv2d_backward(gy, x, w, 1, c.padding), lambda r: r[:2]
    return lambda: kernels.conv2d(x, w, b, 1, c.padding), lambda y: y


def _torch_on_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def _pytorch(_: str, c: Convolution, backward: bool, *arrays: np.ndarray) -> Runner:
    """Return the same pair as _ours() for PyTorch, which uses cuDNN."""
    import torch

    torch.backends.cudnn.benchmark = True  # choose the fastest algorithm for the shape
    torch.backends.cudnn.allow_tf32 = False  # use float32, like the others
    x, w, b, gy = (torch.from_numpy(a).cuda() for a in arrays)
    x, gy = (a.permute(0, 3, 1, 2) for a in (x, gy))  # channels stay last in memory
    w = w.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    if not backward:
        return (
            lambda: torch.nn.functional.conv2d(x, w, b, padding=1),
            lambda y: y.permute(0, 2, 3, 1).cpu().numpy(),
        )
    x, w = x.requires_grad_(), w.requires_grad_()
    y = torch.nn.functional.conv2d(x, w, b, padding=1)
    return (
        lambda: torch.autograd.grad(y, (x, w), gy, retain_graph=True),
        lambda r: (r[0].permute(0, 2, 3, 1).cpu().numpy(), r[1].permute(2, 3, 1, 0).cpu().numpy()),
    )


# --- training and sampling steps -----------------------------------------------------------------


def _tensor_cores() -> list[tuple[str, str]]:
    return [("cupy", name) for name in TENSOR_CORES if name in backend.precisions()]


def _training_step(
    name: str, precision: str, config: dict, batch: int, rounds: int, steps: int
) -> Task:
    """Time noising, forward, loss, backward, Adam and the moving average, launched by Python.

    steps: 1 for the time that a user sees; more for the device's alone.
    """

    def prepare() -> Run:
        wanted = reference_losses(config is TINY, batch, 2)
        verify(losses(name, precision, config, batch, 2), wanted, TRAINING_TOLERANCES[precision])
        return small_trainer(name, precision, config, batch).train_step

    who = name if precision == "float32" else f"{name}, {precision}"
    who += ", queued" * (steps > 1)
    return Task(f"training step, {batch} images", who, prepare, rounds, steps)


def _sampling_step(
    name: str, replay: bool, config: dict, batch: int, rounds: int, steps: int
) -> Task:
    """Time the network, fresh noise and the update, launched by Python or by a graph."""

    def prepare() -> Run:
        wanted = _expected_sample(config is TINY, batch)
        steps = _sampling(name, config, batch, replay)
        verify(_second(steps), wanted, 10 * TOLERANCE)
        return lambda: next(steps)

    who = (f"{name}, graph" if replay else name) + ", queued" * (steps > 1)
    return Task(f"sampling step, {batch} images", who, prepare, rounds, steps)


@cache
def _expected_sample(tiny: bool, batch: int) -> np.ndarray:
    """Return x of the NumPy backend after two steps, for all that are compared with it."""
    return _second(_sampling("numpy", TINY if tiny else minddpm.SMALL, batch, False))


def _sampling(name: str, config: dict, batch: int, replay: bool) -> Iterator[Step]:
    minddpm.set_backend(name)
    return sampling(random_unet(config), batch, 1000, replay)


def _second(steps: Iterator[Step]) -> Any:
    """Return x after two steps; the second step is the first that launches a graph."""
    next(steps)
    return next(steps).x
