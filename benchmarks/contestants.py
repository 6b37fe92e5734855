"""The implementations of an operation: our kernel sets, the ladder's rungs, PyTorch's layouts.

A Contestant is a function without arguments that runs one implementation, already verified.
"""

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

# PyTorch must be imported before Numba starts its threads. In the other order both share one OpenMP
# library, in which Numba allows nested parallel regions; PyTorch's attention then opens a region
# for each of its small products and takes 300 times as long. share_threads() checks this.
if importlib.util.find_spec("torch"):
    import torch

import minddpm
from cases import Operation
from measure import called, device_clock, synchronised, verify
from minddpm import backend
from minddpm.gpucheck.arrays import mapped
from minddpm.kernels import reference
from minddpm.kernels.cpu import threads as kernel_threads

Contestant = Callable[[], Any]

# CUDA kernels and plain CuPy, if there is a GPU. "auto" never chooses the emulator.
GPU = ("cupy", "cupy-reference") if minddpm.set_backend("auto").name == "cupy" else ()
OURS = ("numpy", "numba", *GPU)
THEIRS = ("PyTorch NCHW", "PyTorch channels_last")
# Winograd's transforms add numbers that nearly cancel: error 3e-5 at worst, see conv4_winograd.py.
TOLERANCE = 1e-4


def has(module: str) -> bool:
    """Return whether the library is installed."""
    return importlib.util.find_spec(module) is not None


def share_threads(threads: int | None = None) -> int:
    """Set all libraries to the same number of threads (default: the kernels'), and return it."""
    threads = kernel_threads.set_threads(threads or kernel_threads.count())
    if has("torch"):
        torch.set_num_threads(threads)
        check_pytorch_threads(threads)
    return threads


def check_pytorch_threads(threads: int) -> None:
    """Raise RuntimeError if more threads make PyTorch's attention far slower (see the top)."""
    q = torch.zeros(16, 8, 49, 8)

    def seconds() -> float:
        times = []
        for _ in range(5):
            start = time.perf_counter()
            torch.nn.functional.scaled_dot_product_attention(q, q, q)
            times.append(time.perf_counter() - start)
        return min(times)

    together = seconds()
    torch.set_num_threads(1)
    alone = seconds()
    torch.set_num_threads(threads)
    if together > 20 * alone:
        raise RuntimeError(
            f"PyTorch's attention takes {together * 1e3:.0f} ms on {threads} threads and "
            f"{alone * 1e3:.1f} ms on one: import torch before Numba starts its threads."
        )


def expected(operation: Operation, backward: bool) -> Any:
    """Return the result of the reference kernel."""
    name, arguments = operation.call(backward)
    return called(getattr(reference, name), arguments, operation.in_place)


def clock(name: str) -> list[Any]:
    """Return the marks of a benchmark; GPU kernels are timed by the device's own clock."""
    import pytest

    return [pytest.mark.benchmark(timer=device_clock())] if name in GPU else []


# Functions that return what their backward takes as `saved`, which each kernel set chooses itself.
SAVING = ("attention", "norm_silu_conv2d")


def ours(operation: Operation, backward: bool, name: str, wanted: Any) -> Contestant:
    """Return the verified kernel of backend `name`; that backend stays active."""
    minddpm.set_backend(name)
    kernels, (function, arguments) = backend.kernels, operation.call(backward)
    kernel, arguments = getattr(kernels, function), mapped(backend.xp.asarray, arguments)
    if backward and operation.function in SAVING:
        forward = getattr(kernels, operation.function)
        _, saved = forward(*mapped(backend.xp.asarray, operation.arguments))
        arguments = (*arguments[:4], saved, *arguments[5:])
    result = called(kernel, arguments, operation.in_place)
    if function in SAVING:
        result, wanted = result[0], wanted[0]
    verify(result, wanted, TOLERANCE)
    if operation.in_place:  # other implementations read the same arguments
        arguments = (arguments[0].copy(), *arguments[1:])
    run = partial(kernel, *arguments)
    return synchronised(run) if backend.BACKENDS[name][0] == "cupy" else run


def theirs(operation: Operation, backward: bool, mode: str, wanted: Any) -> Contestant:
    """Return the verified operation of PyTorch in one of its layouts."""
    from torch_operations import in_our_layout, runner

    run = runner(operation, backward, mode)
    if operation.function in ("group_norm_silu", *SAVING) and not backward:
        wanted = wanted[0]  # mean and rstd stay inside PyTorch
    verify(in_our_layout(operation, backward, mode, run()), wanted, TOLERANCE)
    return run


def fits(name: str, operation: Operation) -> bool:
    """Return whether this rung of the ladder supports a convolution of this shape."""
    from minddpm.kernels.cpu.ladder.choose import LADDER

    x, w, _, stride, padding = operation.arguments
    return LADDER[name].fits(x.shape, w.shape, stride, padding)


def rung(operation: Operation, backward: bool, name: str, wanted: Any) -> Contestant:
    """Return a verified rung of the ladder of convolutions."""
    from minddpm.kernels.cpu.ladder.choose import LADDER

    function = LADDER[name].backward if backward else LADDER[name].forward
    _, arguments = operation.call(backward)
    verify(function(*arguments), wanted, TOLERANCE)
    return lambda: function(*arguments)


def layouts(name: str) -> tuple[str, ...]:
    """Return the PyTorch layouts to time: two for images, one for other arrays."""
    if not has("torch"):
        return ()
    return THEIRS if name.startswith(("conv", "window", "half", "norm", "upsample")) else THEIRS[:1]
