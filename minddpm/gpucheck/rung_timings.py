"""Timings of single convolutions: every rung, plain CuPy, and PyTorch with cuDNN."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

import minddpm
from minddpm import backend
from minddpm.gpucheck import timings
from minddpm.gpucheck.arrays import mapped, verify
from minddpm.gpucheck.convolutions import Convolution, rounded, sums_tolerance
from minddpm.gpucheck.machine import pytorch_problem
from minddpm.gpucheck.timings import TOLERANCE, NotAvailableError, Run, Task
from minddpm.kernels import cuda, reference
from minddpm.kernels.cuda import ladder, winograd
from minddpm.kernels.cuda.ladder import FUSED_BACKWARD, RUNGS, Rung, Sizes, available_rungs
from minddpm.kernels.cuda.launch import blocks

CONVOLUTIONS = {  # (H, C, C_out) of the small UNet
    "28x28 32->32": (28, 32, 32),
    "14x14 64->64": (14, 64, 64),
    "7x7 128->64": (7, 128, 64),
}
# With channels_last, and the rung that rounds as it does.
THEIRS = {
    "PyTorch, FP32": None,
    "PyTorch, TF32": "6 tensor cores, TF32",
    "PyTorch, half": "6 tensor cores, half",
}
# PyTorch rounds results to half, too, and the sums of gw's slices more than once.
HALF_RESULT = 2.0**-9
Runner = tuple[Run, Callable[[Any], Any]]


def tasks(quick: bool) -> list[Task]:
    """Return the timings of every contestant's forward and backward; quick: a smaller batch."""
    batch, rounds = (timings.QUICK_BATCH, 5) if quick else (timings.BATCH, 21)
    rungs = available_rungs()
    contestants = sorted(["rung 5 Winograd", *(f"rung {name}" for name in rungs)], key=_number)
    contestants += ["chosen (cupy)", "cupy-reference"]
    contestants += [who for who, rung in THEIRS.items() if rung is None or rung in rungs]
    return [
        _convolution(name, Convolution(batch, H, H, C, C_out), backward, who, rounds)
        for name, (H, C, C_out) in CONVOLUTIONS.items()
        for backward in (False, True)
        for who in contestants
    ]


def _number(who: str) -> str:
    return who.split()[1]  # of a rung


@cache
def _arrays(c: Convolution, stored: str) -> list[np.ndarray]:
    """Return x, w, b and gy, of which a rung that stores this type rounds no bit."""
    return [rounded(array, stored) for array in c.arrays()[:4]]


@cache
def _expected(c: Convolution, backward: bool, stored: str) -> Any:
    """Return the reference's result, for all that are compared with it."""
    x, w, b, gy = _arrays(c, stored)
    if backward:
        return reference.conv2d_backward(gy, x, w, 1, c.padding)[:2]
    return reference.conv2d(x, w, b, 1, c.padding)


def _convolution(name: str, c: Convolution, backward: bool, who: str, rounds: int) -> Task:
    def prepare() -> Run:
        if who in THEIRS and (missing := pytorch_problem()):
            raise NotAvailableError(missing)
        minddpm.set_backend("cupy")
        stored = rung.stored if (rung := _rung(who)) else "float32"
        make = _pytorch if who in THEIRS else _ours
        run, result = make(who, c, backward, *_arrays(c, stored))
        verify(result(run()), _expected(c, backward, stored), _tolerance(who, c))
        return run

    what = f"conv {name}{' backward' * backward}, {c.N} images"
    flops = 2 * c.N * c.H * c.W * c.KH * c.KW * c.C * c.C_out * (1 + backward)
    return Task(what, who, prepare, rounds, flops=flops)


def _rung(who: str) -> Rung | None:
    """Return a contestant's rung, or the one that rounds as it does; None if it rounds nothing."""
    return RUNGS.get(THEIRS.get(who) or who.removeprefix("rung "))


def _tolerance(who: str, c: Convolution) -> float:
    rung = _rung(who)
    if rung is None:
        return TOLERANCE
    depth = c.depth if who in THEIRS else _depth(c, rung)
    more = HALF_RESULT if who == "PyTorch, half" else 0.0
    return max(TOLERANCE, sums_tolerance(rung, depth)) + more


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
    rung = _rung(who)
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


def _pytorch(
    who: str, c: Convolution, backward: bool, *arrays: np.ndarray, device: str = "cuda"
) -> Runner:
    """Return the same pair as _ours() for PyTorch, which uses cuDNN."""
    import torch

    torch.backends.cudnn.benchmark = True  # choose the fastest algorithm for the shape
    torch.backends.cudnn.allow_tf32 = who == "PyTorch, TF32"
    kind = torch.float16 if who == "PyTorch, half" else torch.float32
    x, w, b, gy = (torch.from_numpy(a).to(device, kind) for a in arrays)
    x, gy = (a.permute(0, 3, 1, 2) for a in (x, gy))  # channels stay last in memory
    w = w.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
    if not backward:
        return (
            lambda: torch.nn.functional.conv2d(x, w, b, padding=1),
            lambda y: _host(y, 0, 2, 3, 1),
        )
    x, w = x.requires_grad_(), w.requires_grad_()
    y = torch.nn.functional.conv2d(x, w, b, padding=1)
    return (
        lambda: torch.autograd.grad(y, (x, w), gy, retain_graph=True),
        lambda r: (_host(r[0], 0, 2, 3, 1), _host(r[1], 2, 3, 1, 0)),
    )


def _host(x: Any, *axes: int) -> np.ndarray:
    """Return a tensor of PyTorch with its axes in this order, as float32."""
    return x.permute(axes).float().cpu().numpy()
