"""Adam, moving averages and gradient norms, each one pass over a flat array of all parameters."""

import math

import numpy as np
from numba import njit

from minddpm.kernels import reference
from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.memory import address, array_at, clear, empty, floats, items, share
from minddpm.kernels.cpu.task import as_float, as_float32, bits, integers, task
from minddpm.kernels.float32 import contiguous_float32, float32_only

PART = 1 << 14  # numbers in each partial sum of squared_norm
CHUNK = 1 << 11  # numbers that Adam updates before it moves their average: they stay in the cache


def adam(
    param, grad, m, v, average, step, lr, beta1: float, beta2: float, eps: float,
    weight_decay: float, grad_scale, ema_decay,
):  # fmt: skip
    if not contiguous_float32(param, grad, m, v, average):
        reference.adam(
            param, grad, m, v, average, step, lr, beta1, beta2, eps, weight_decay, grad_scale,
            ema_decay,
        )  # fmt: skip
        return
    # The task reads at an address what changes from step to step, so that it can be replayed.
    scale = np.asarray(grad_scale, np.float32)
    changing = [scale, *(np.asarray(x, np.float64) for x in (step, lr, ema_decay))]
    arrays = (address(a) for a in (param, grad, m, v, average, *changing))
    numbers = map(bits, (beta1, beta2, eps, weight_decay))
    _adam(threads.pieces(param.size // CHUNK), *arrays, param.size, *numbers)


@task
def _adam(piece, pieces, worker, at):
    """Update a share of the parameters and, unless its address is 0, of their average.

    Chunk by chunk, because a second pass would read every parameter from memory again.
    """
    param, grad, m, v, average, scale_at, step_at, lr_at, ema_decay_at, n = integers(at, 10)
    beta1_bits, beta2_bits, eps, weight_decay = integers(at + 8 * 10, 4)
    grad_scale = floats(scale_at, 1)[0]
    if not math.isfinite(grad_scale):
        return
    step, lr, ema_decay = number(step_at), number(lr_at), number(ema_decay_at)
    beta1, beta2 = as_float(beta1_bits), as_float(beta2_bits)
    rate, root2 = lr / (1 - beta1**step), 1 / math.sqrt(1 - beta2**step)
    decay = 1 - lr * as_float(weight_decay)
    first, end = share(n, piece, pieces), share(n, piece + 1, pieces)
    for i in range(first, end, CHUNK):
        shift, count = 4 * i, min(CHUNK, end - i)
        p = floats(param + shift, count)
        _adam_chunk(
            p, floats(grad + shift, count), floats(m + shift, count), floats(v + shift, count),
            np.float32(rate), np.float32(beta1), np.float32(beta2), as_float32(eps),
            np.float32(decay), grad_scale, np.float32(root2),
        )  # fmt: skip
        if average:
            ema_chunk(floats(average + shift, count), p, np.float32(1 - ema_decay))


@njit(inline="always")
def number(at):
    """Return the float64 at address `at`."""
    return array_at(at, (1,), np.float64)[0]


@njit(error_model="numpy")
def _adam_chunk(param, grad, m, v, lr, beta1, beta2, eps, decay, grad_scale, root2):
    """Here lr is lr / (1 - beta1^step), root2 (1 - beta2^step)^-1/2, decay 1 - lr weight_decay."""
    one = np.float32(1)
    for i in range(param.size):
        g = grad[i] * grad_scale
        m_new = beta1 * m[i] + (one - beta1) * g
        v_new = beta2 * v[i] + (one - beta2) * (g * g)
        m[i], v[i] = m_new, v_new
        param[i] = decay * param[i] - lr * m_new / (math.sqrt(v_new) * root2 + eps)


@njit
def ema_chunk(average, param, rest):
    """average = decay average + (1 - decay) param, with rest = 1 - decay."""
    for i in range(average.size):
        average[i] = average[i] + rest * (param[i] - average[i])


def ema(average, param, decay: float):
    if not contiguous_float32(average, param):
        reference.ema(average, param, decay)
        return
    n = average.size
    _ema(threads.pieces(n // CHUNK), address(average), address(param), n, bits(1 - decay))


@task
def _ema(piece, pieces, worker, at):
    average, param, n, rest = integers(at, 4)
    first, end = share(n, piece, pieces), share(n, piece + 1, pieces)
    count = end - first
    ema_chunk(
        floats(average + 4 * first, count), floats(param + 4 * first, count), as_float32(rest)
    )


@float32_only
def squared_norm(x):
    sums, total = empty(-(-x.size // PART), np.float64), empty((), np.float64)
    _squared_norm(threads.pieces(len(sums)), address(x), x.size, address(sums))
    _add_up(1, address(sums), len(sums), address(total))
    return total


@task
def _squared_norm(piece, pieces, worker, at):
    """Compute sums[k], the sum of x^2 over the k-th PART: the same for any number of pieces."""
    x, n, sums_at = integers(at, 3)
    count = -(-n // PART)
    sums = array_at(sums_at, (count,), np.float64)
    for k in items(count, piece, pieces):
        sums[k] = _sum_of_squares(floats(x + 4 * k * PART, min(PART, n - k * PART)))


# These flags let LLVM sum in vector lanes: in a fixed order, which is not the loop's.
@njit(fastmath={"reassoc", "nsz"})
def _sum_of_squares(x):
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i]) * np.float64(x[i])
    return total


@task
def _add_up(piece, pieces, worker, at):
    sums_at, count, total_at = integers(at, 3)
    sums, total = array_at(sums_at, (count,), np.float64), 0.0
    for k in range(count):
        total += sums[k]
    array_at(total_at, (1,), np.float64)[0] = total


def clip_scale(squared_norm, max_norm: float):
    squared_norm, scale = np.asarray(squared_norm, np.float64), empty((), np.float32)
    _clip_scale(1, address(squared_norm), bits(max_norm), address(scale))
    return scale


@task
def _clip_scale(piece, pieces, worker, at):
    squared_norm, max_norm, scale = integers(at, 3)
    norm, most = math.sqrt(number(squared_norm)), as_float(max_norm)
    factor = most / max(norm, most) if math.isfinite(norm) else math.nan
    floats(scale, 1)[0] = factor


def set_to_zero(x):
    if not contiguous_float32(x):
        reference.set_to_zero(x)
        return
    _set_to_zero(threads.pieces(x.size // PART), address(x), x.size)


@task
def _set_to_zero(piece, pieces, worker, at):
    x, n = integers(at, 2)
    first, end = share(n, piece, pieces), share(n, piece + 1, pieces)
    clear(x + 4 * first, end - first)
