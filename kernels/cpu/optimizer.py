"""Adam, moving averages and gradient norms, each one pass over a flat array of all parameters."""

import math

import numpy as np
from numba import njit, prange

from minddpm.kernels.cpu.compiled import parallel
from minddpm.kernels.float32 import float32_only

PART = 1 << 14  # numbers in each partial sum of squared_norm


def adam(
    param, grad, m, v, average, step: int, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, grad_scale: float, ema_decay: float,
):  # fmt: skip
    if not math.isfinite(grad_scale):
        return
    numbers = (
        lr / (1 - beta1**step), beta1, beta2, eps, 1 - lr * weight_decay, grad_scale,
        1 / math.sqrt(1 - beta2**step), 1 - ema_decay,
    )  # fmt: skip
    _adam(param, grad, m, v, average, *(np.float32(x) for x in numbers))


@parallel
def _adam(param, grad, m, v, average, lr, beta1, beta2, eps, decay, grad_scale, root2, rest):
    """Here lr is lr / (1 - beta1^step), root2 (1 - beta2^step)^-1/2, decay 1 - lr weight_decay.

    The average is updated in the same pass, because a second pass would read every parameter again.
    """
    one = np.float32(1)
    for i in prange(param.size):
        g = grad[i] * grad_scale
        m_new = beta1 * m[i] + (one - beta1) * g
        v_new = beta2 * v[i] + (one - beta2) * (g * g)
        m[i], v[i] = m_new, v_new
        p = decay * param[i] - lr * m_new / (math.sqrt(v_new) * root2 + eps)
        param[i] = p
        if average is not None:  # decided at compile time
            average[i] = _moved(average[i], p, rest)


@njit(inline="always")
def _moved(average, x, rest):
    """Return decay average + (1 - decay) x, with rest = 1 - decay."""
    return average + rest * (x - average)


def ema(average, param, decay: float):
    _ema(average, param, np.float32(1 - decay))


@parallel
def _ema(average, param, rest):
    for i in prange(param.size):
        average[i] = _moved(average[i], param[i], rest)


@float32_only
def squared_norm(x):
    parts = np.empty(-(-x.size // PART))
    _squared_norm(x, parts)
    return parts.sum()


@parallel
def _squared_norm(x, parts):
    """Compute parts[k], the sum of x^2 over the k-th PART: the same for any number of threads."""
    for k in prange(parts.size):
        parts[k] = _sum_of_squares(x[k * PART : (k + 1) * PART])


# These flags let LLVM sum in vector lanes: in a fixed order, which is not the loop's.
@njit(fastmath={"reassoc", "nsz"})
def _sum_of_squares(x):
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i]) * np.float64(x[i])
    return total
