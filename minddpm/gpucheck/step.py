"""One step taken apart: how often each kernel is launched, and the device's time in it.

The step is queued behind a wait, with events around each launch, so that host time does not count.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import minddpm
from minddpm import backend
from minddpm.gpucheck import timings
from minddpm.gpucheck.checks import first_line, sampling, small_trainer
from minddpm.kernels.cuda.ladder import Sizes
from minddpm.kernels.cuda.launch import is_array, observed_by

ROUNDS = 5
PRODUCTS = ("conv2d", "conv2d_gradient_x", "conv2d_gradient_w", "conv2d_gradients")
# Convolutions with a linear layer: where its channels are among the arguments, and the products.
WITH_LAYER = {"conv2d_shortcut": (8, 1), "conv2d_shortcut_gradients": (10, 2)}


class Kernel(NamedTuple):
    """All launches of one kernel in a step.

    flops: of its convolutions, 0 for other kernels. bytes: of all arrays that it gets, each counted
    once; 0 if it finds arrays by a table.
    """

    name: str
    launches: int
    microseconds: float
    flops: int
    bytes: int


class Breakdown(NamedTuple):
    """A "training" or "sampling" step of `images` images, in a precision.

    milliseconds: of the device, with all that CuPy adds itself. host: milliseconds until Python has
    launched it. problem: why there is none.
    """

    what: str
    images: int
    precision: str
    kernels: list[Kernel]
    milliseconds: float | None
    host: float | None
    problem: str = ""

    @property
    def launches(self) -> int:
        return sum(kernel.launches for kernel in self.kernels)


def breakdown(what: str, precision: str, quick: bool) -> Breakdown:
    """Take one step of the small UNet apart. It is not replayed: a graph has no events within."""
    batch = timings.QUICK_BATCH if quick else timings.BATCH
    nothing = Breakdown(what, batch, precision, [], None, None)
    try:
        trainer = small_trainer("cupy", precision, minddpm.SMALL, batch, replay=False)
        if what == "training":
            return _measured(trainer.train_step, nothing)
        steps = sampling(trainer.unet.eval(), batch, 1000, replay=False)
        return _measured(lambda: next(steps), nothing)
    except Exception as problem:  # any error of the device
        return nothing._replace(problem=first_line(problem))


def _measured(run: Any, nothing: Breakdown) -> Breakdown:
    cuda, spans = backend.xp.cuda, []
    host = timings.launching_time(run, ROUNDS)

    @contextmanager
    def between_events(file: str, name: str, arguments: tuple[Any, ...]) -> Iterator[None]:
        start, end = cuda.Event(), cuda.Event()
        start.record()
        yield
        end.record()
        title = f"{file.removesuffix('.cu')}: {name}"
        spans.append((title, start, end, *work(file, name, arguments)))

    first, last = cuda.Event(), cuda.Event()
    cuda.Device().synchronize()
    # Events make launching slower: the wait must cover all of it.
    timings.wait(4 * timings.CLOCK * host / 1e3)
    first.record()
    with observed_by(between_events):
        run()
    last.record()
    last.synchronize()
    kernels: dict[str, Kernel] = {}
    for name, start, end, flops, moved in spans:
        before = kernels.get(name, Kernel(name, 0, 0.0, 0, 0))
        time = 1e3 * cuda.get_elapsed_time(start, end)
        added = before.launches + 1, before.microseconds + time, before.flops + flops
        kernels[name] = Kernel(name, *added, before.bytes + moved)
    longest_first = sorted(kernels.values(), key=lambda kernel: -kernel.microseconds)
    whole = cuda.get_elapsed_time(first, last)
    return nothing._replace(kernels=longest_first, milliseconds=whole, host=host)


def work(file: str, name: str, arguments: tuple[Any, ...]) -> tuple[int, int]:
    """Return the flops and the bytes of a launch, as Kernel counts them."""
    if file == "linears.cu":
        return 0, 0
    arrays = {id(x): x.nbytes for x in arguments if is_array(x)}
    flops = 0
    if name in (*PRODUCTS, *WITH_LAYER):
        numbers = [x for x in arguments if isinstance(x, int)]
        s = Sizes(*numbers[-13:-1])  # before `vector`, as ladder.py passes them
        depth, products = s.window, 1
        if name == "conv2d_gradients":
            gx, gw = arguments[7], arguments[9]
            products = (gx is not None) + (gw is not None)
        if name in WITH_LAYER:
            place, products = WITH_LAYER[name]
            depth += arguments[place]
        flops = 2 * s.pixels * depth * s.C_out * products
    return flops, sum(arrays.values())
