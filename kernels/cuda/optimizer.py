"""Adam, the moving average of weights, and the norm of a gradient (pointwise.cu)."""

from minddpm.kernels.cuda.launch import blocks, cupy, each, empty, is_array, launch
from minddpm.kernels.float32 import float32_only


def adam(
    param, grad, m, v, average, step: int, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, grad_scale: float, ema_decay: float,
):  # fmt: skip
    numbers = (
        lr / (1 - beta1**step), beta1, beta2, eps, 1 - lr * weight_decay,
        (1 - beta2**step) ** -0.5, 1.0 - ema_decay,
    )  # fmt: skip
    n = param.size
    scale = (grad_scale, 1.0) if is_array(grad_scale) else (None, float(grad_scale))
    each("pointwise.cu", "adam", n, param, grad, m, v, average, *scale, *numbers, n)


def ema(average, param, decay: float):
    each("pointwise.cu", "ema", param.size, average, param, 1.0 - decay, param.size)


@float32_only
def squared_norm(x):
    grid = min(blocks(x.size, 256), 1024)
    parts, total = cupy().empty(grid, "float64"), cupy().empty((), "float64")
    launch("pointwise.cu", "squared_norm", (grid,), (256,), x, parts, x.size)
    launch("pointwise.cu", "sum_parts", (1,), (1,), parts, total, grid)
    return total


def clip_scale(squared_norm, max_norm: float):
    (scale,) = empty(())
    launch("pointwise.cu", "clip_scale", (1,), (1,), squared_norm, float(max_norm), scale)
    return scale
