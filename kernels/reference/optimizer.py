"""Adam, moving averages and gradient norms, on one flat buffer of all parameters, in place."""

from minddpm.kernels.arrays import Array, array_module

Number = float | Array


def adam(
    param: Array, grad: Array, m: Array, v: Array, average: Array | None, step: Number, lr: Number,
    beta1: float, beta2: float, eps: float, weight_decay: float, grad_scale: Number,
    ema_decay: Number,
) -> None:  # fmt: skip
    """Take one step of Adam (Kingma and Ba 2015, algorithm 1) with decoupled decay (AdamW, 2019).

    All arrays are [P]. param, m and v are changed in place, then average, the moving average of
    param, unless it is None. step counts from 1. The gradient is first multiplied by grad_scale;
    if grad_scale is not finite (clip_scale), nothing changes. A Number is what changes from step to
    step; as a 0-d array it can change in a replay, too.
    m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
    param -= lr ( (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay param )
    """
    xp = array_module(param)
    if not xp.isfinite(xp.asarray(grad_scale)):
        return
    g = grad * grad_scale
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    g *= g
    v += (1 - beta2) * g
    update = xp.sqrt(v)
    update *= (1 - beta2**step) ** -0.5
    update += eps
    xp.divide(m, update, out=update)
    update *= lr / (1 - beta1**step)
    if weight_decay:
        param *= 1 - lr * weight_decay
    param -= update
    if average is not None:
        ema(average, param, ema_decay)


def ema(average: Array, param: Array, decay: float) -> None:
    """average = decay average + (1 - decay) param, in place, both [P]."""
    average += (1 - decay) * (param - average)


def squared_norm(x: Array) -> Array:
    """Return the sum of x^2 of a flat array as a 0-d float64 array; does not synchronise."""
    xp = array_module(x)
    return xp.square(x).sum(dtype=xp.float64)


def clip_scale(squared_norm: Array, max_norm: float) -> Array:
    """Return the factor that scales a gradient of norm sqrt(squared_norm) down to max_norm.

    The factor is 0-d float32: 1 if the norm is smaller, nan if not finite; does not synchronise.
    """
    xp = array_module(squared_norm)
    norm = xp.sqrt(squared_norm)
    scale = xp.where(xp.isfinite(norm), max_norm / xp.maximum(norm, max_norm), xp.nan)
    return xp.asarray(scale, dtype="float32")


def set_to_zero(x: Array) -> None:
    """x = 0, in place."""
    x[...] = 0
