"""Adam, the moving average of weights, and the norm of a gradient (pointwise.cu)."""

from typing import Any

import numpy as np

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda.launch import blocks, counters, cupy, each, empty, is_array, launch
from minddpm.kernels.float32 import float32_only


def adam(
    param, grad, m, v, average, step, lr, beta1: float, beta2: float, eps: float,
    weight_decay: float, grad_scale, ema_decay,
):  # fmt: skip
    n = param.size
    changing = number(np.float32, grad_scale)
    for x in (step, lr, ema_decay):
        changing += number(np.float64, x)
    numbers = *map(np.float64, (beta1, beta2, weight_decay)), eps, n
    each("pointwise.cu", "adam", n, param, grad, m, v, average, *changing, *numbers)


def number(kind: type, x: Array | float) -> tuple[Array | None, Any]:
    """Return x as the kernel reads it: at an address unless that is null, or by value."""
    return (x, kind(0)) if is_array(x) else (None, kind(x))


def ema(average, param, decay: float):
    each("pointwise.cu", "ema", param.size, average, param, 1.0 - decay, param.size)


@float32_only
def squared_norm(x):
    grid = min(blocks(x.size, 1024), 1024)
    parts, total = cupy().empty(grid, "float64"), cupy().empty((), "float64")
    launch(
        "pointwise.cu", "squared_norm", (grid,), (256,), x, parts, total, counters(1), x.size
    )  # fmt: skip
    return total


def clip_scale(squared_norm, max_norm: float):
    (scale,) = empty(())
    launch("pointwise.cu", "clip_scale", (1,), (1,), squared_norm, float(max_norm), scale)
    return scale
