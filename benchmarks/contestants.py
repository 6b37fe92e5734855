"""Who is compared on one operation: our kernel sets, the rungs of the ladder, PyTorch's layouts.

A contestant is a function without arguments. Each has been verified when it leaves this file.
"""

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

# Before Numba starts its threads. The other way round both would share one OpenMP library, in which
# Numba allows parallel regions inside parallel regions; PyTorch's attention then opens one for each
# of its small products and takes 300 times as long. share_threads() makes sure of it.
if importlib.util.find_spec("torch"):
    import torch
import numba

import minddpm
from cases import Operation
from measure import called, device_clock, synchronised, verify
from minddpm import backend
from minddpm.gpucheck.arrays import mapped
from minddpm.kernels import reference

Contestant = Callable[[], Any]

# Where a GPU answers, its kernels and plain CuPy; "auto" never takes the emulator for one.
GPU = ("cupy", "cupy-reference") if minddpm.set_backend("auto").name == "cupy" else ()
OURS = ("numpy", "numba", *GPU)
THEIRS = ("PyTorch NCHW", "PyTorch channels_last")
# Winograd's transforms add numbers that nearly cancel: 3e-5 at worst, see conv4_winograd.py.
TOLERANCE = 1e-4


def has(module: str) -> bool:
    """Whether the library is installed."""
    return importlib.util.find_spec(module) is not None


def share_threads(threads: int | None = None) -> int:
    """Give everybody the same number of threads (default: as many as Numba has), and return it."""
    threads = threads or numba.get_num_threads()
    numba.set_num_threads(threads)
    if has("torch"):
        torch.set_num_threads(threads)
        check_pytorch_is_whole(threads)
    return threads


def check_pytorch_is_whole(threads: int) -> None:
    """Raise RuntimeError if more threads make PyTorch's attention slower by far, as above."""
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
            f"{alone * 1e3:.1f} on one: it was imported after Numba had started its threads."
        )


def expected(operation: Operation, backward: bool) -> Any:
    """The result by the reference."""
    name, arguments = operation.call(backward)
    return called(getattr(reference, name), arguments, operation.in_place)


def clock(name: str) -> list[Any]:
    """The marks of a benchmark: a GPU's kernels are timed by its own events."""
    import pytest

    return [pytest.mark.benchmark(timer=device_clock())] if name in GPU else []


def ours(operation: Operation, backward: bool, name: str, wanted: Any) -> Contestant:
    """The kernel of the backend `name`, which stays the one in use."""
    minddpm.set_backend(name)
    kernels, (function, arguments) = backend.kernels, operation.call(backward)
    kernel, arguments = getattr(kernels, function), mapped(backend.xp.asarray, arguments)
    if function == "norm_silu_conv2d_backward":  # each kernel set keeps what it likes
        _, saved = kernels.norm_silu_conv2d(*mapped(backend.xp.asarray, operation.arguments))
        arguments = (*arguments[:4], saved, *arguments[5:])
    result = called(kernel, arguments, operation.in_place)
    if function == "norm_silu_conv2d":
        result, wanted = result[0], wanted[0]
    verify(result, wanted, TOLERANCE)
    if operation.in_place:  # `arguments` are still to be read by others
        arguments = (arguments[0].copy(), *arguments[1:])
    run = partial(kernel, *arguments)
    return synchronised(run) if backend.BACKENDS[name][0] == "cupy" else run


def theirs(operation: Operation, backward: bool, mode: str, wanted: Any) -> Contestant:
    """PyTorch in one of its layouts."""
    from torch_operations import in_our_layout, runner

    run = runner(operation, backward, mode)
    if operation.function in ("group_norm_silu", "norm_silu_conv2d") and not backward:
        wanted = wanted[0]  # mean and rstd stay inside PyTorch
    verify(in_our_layout(operation, backward, mode, run()), wanted, TOLERANCE)
    return run


def fits(name: str, operation: Operation) -> bool:
    """Whether this rung of the ladder is made for a convolution of this shape."""
    from minddpm.kernels.cpu.ladder.choose import LADDER

    x, w, _, stride, padding = operation.arguments
    return LADDER[name].fits(x.shape, w.shape, stride, padding)


def rung(operation: Operation, backward: bool, name: str, wanted: Any) -> Contestant:
    """A rung of the ladder of convolutions."""
    from minddpm.kernels.cpu.ladder.choose import LADDER

    function = LADDER[name].backward if backward else LADDER[name].forward
    _, arguments = operation.call(backward)
    verify(function(*arguments), wanted, TOLERANCE)
    return lambda: function(*arguments)


def layouts(name: str) -> tuple[str, ...]:
    """PyTorch's layouts that make a difference to this case: pictures have two."""
    if not has("torch"):
        return ()
    return THEIRS if name.startswith(("conv", "window", "half", "norm", "upsample")) else THEIRS[:1]
