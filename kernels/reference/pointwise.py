"""Pointwise operations: SiLU, dropout, upsampling, sums of gradients, timestep features."""

import math
from collections.abc import Sequence

from minddpm.kernels.arrays import Array, array_module
from minddpm.kernels.reference.noise import random_uniform


def silu(x: Array) -> Array:
    """Return y = x s(x) with s(x) = 1 / (1 + e^-x)."""
    return x * _sigmoid(x)


def silu_backward(gy: Array, x: Array) -> Array:
    """Return gx = gy dy/dx with dy/dx = s + x s (1 - s), since s' = s (1 - s)."""
    s = _sigmoid(x)
    slope = 1 - s
    slope *= x
    slope += 1
    slope *= s
    slope *= gy
    return slope


def _sigmoid(x: Array) -> Array:
    # s(x) = (1 + tanh(x/2)) / 2 is the same function without e^-x, which overflows at x = -89.
    s = array_module(x).tanh(x * 0.5)
    s += 1
    s *= 0.5
    return s


def dropout(x: Array, p: float, seed: int, purpose: int, step: int, first: int = 0) -> Array:
    """Zero each value with probability p, and scale the others by 1 / (1 - p), so that E[y] = x.

    Element i is kept if uniform number first + i of the stream (seed, purpose, step) is at least p.
    The backward is the same operation on gy: the numbers are drawn again, and no mask is saved.
    """
    u = random_uniform(array_module(x), x.size, seed, purpose, step, first).reshape(x.shape)
    # The scaling is done here, not at sampling time, so eval() has nothing to do.
    return x * ((u >= p).astype(x.dtype) * (1 / (1 - p)))


def upsample_nearest(x: Array) -> Array:
    """Repeat every pixel 2 x 2 times: [N, H, W, C] -> [N, 2H, 2W, C]."""
    xp = array_module(x)
    N, H, W, C = x.shape
    y = xp.broadcast_to(x[:, :, None, :, None], (N, H, 2, W, 2, C))
    return y.reshape(N, 2 * H, 2 * W, C)


def upsample_nearest_backward(gy: Array) -> Array:
    """Return gx: each pixel of x was copied four times, so its gx is the sum of four gy."""
    N, H2, W2, C = gy.shape
    return gy.reshape(N, H2 // 2, 2, W2 // 2, 2, C).sum(axis=(2, 4))


def add(a: Array, b: Array) -> Array:
    """Return a + b as a new array; a and b have the same shape and type."""
    return array_module(a).asarray(a + b)  # the sum of 0-d arrays is a scalar


def add_to(total: Array, x: Array | None) -> Array:
    """Add x to total, in place, and return total; None adds nothing."""
    if x is not None:
        array_module(total).add(total, x, out=total)
    return total


def add_all(totals: tuple[Array, ...], xs: Sequence[Array | None]) -> tuple[Array, ...]:
    """Add each x to its total, in place, and return the totals; an empty xs adds nothing.

    No array occurs twice.
    """
    for total, x in zip(totals, xs or (None,) * len(totals), strict=True):
        add_to(total, x)
    return totals


def timestep_features(
    t: Array, C: int, freq_shift: float, cosines_first: bool, dtype: str
) -> Array:
    """Return sines and cosines of t at geometrically falling frequencies: int [N] -> [N, C].

    angle_i = t * 10000^(-i / (half - freq_shift)), i = 0..half-1 (Vaswani et al. 2017, 3.5);
    half = C // 2, and an odd C has a zero at the end.
    """
    xp, half = array_module(t), C // 2
    exponent = xp.arange(half, dtype="float64") / (half - freq_shift)
    angle = t.astype("float64")[:, None] * xp.exp(-math.log(10000) * exponent)
    parts = [xp.cos(angle), xp.sin(angle)] if cosines_first else [xp.sin(angle), xp.cos(angle)]
    if C % 2:
        parts.append(xp.zeros((len(t), 1)))
    return xp.concatenate(parts, axis=1).astype(dtype)
