"""Operations on one element at a time, and sums of gradients (pointwise.cu, random.cu)."""

import numpy as np

from minddpm.kernels import reference
from minddpm.kernels.cuda.launch import blocks, each, empty, launch, table
from minddpm.kernels.cuda.noise import each_four, stream
from minddpm.kernels.float32 import contiguous_float32, float32_only

PAIRS = 128  # of a launch of add_all, in pointwise.cu, too
PAIR = np.dtype([("total", "u8"), ("x", "u8"), ("n", "i8")])


@float32_only
def silu(x):
    (y,) = empty(x.shape)
    each("pointwise.cu", "silu", x.size, x, y, x.size)
    return y


@float32_only
def silu_backward(gy, x):
    (gx,) = empty(x.shape)
    each("pointwise.cu", "silu_backward", x.size, gy, x, gx, x.size)
    return gx


@float32_only
def dropout(x, p: float, seed: int, purpose: int, step: int, first: int = 0):
    (y,) = empty(x.shape)
    limit = np.uint32(np.ceil(p * 2.0**24))  # compared with the upper 24 bits, which make u
    drawn = np.uint64(first), stream(seed, purpose, step)
    each_four("dropout", x.size + first % 4, x, y, limit, 1 / (1 - p), *drawn, x.size)
    return y


@float32_only
def upsample_nearest(x):
    N, H, W, C = x.shape
    (y,) = empty((N, 2 * H, 2 * W, C))
    each("pointwise.cu", "upsample_nearest", y.size, x, y, H, W, C, y.size)
    return y


@float32_only
def upsample_nearest_backward(gy):
    N, H2, W2, C = gy.shape
    (gx,) = empty((N, H2 // 2, W2 // 2, C))
    each("pointwise.cu", "upsample_nearest_backward", gx.size, gy, gx, W2 // 2, C, gx.size)
    return gx


def timestep_features(t, C: int, freq_shift: float, cosines_first: bool, dtype: str):
    if dtype != "float32" or t.dtype != np.int64 or C < 2:
        return reference.timestep_features(t, C, freq_shift, cosines_first, dtype)
    (features,) = empty((len(t), C))
    numbers = C, C // 2 - freq_shift, cosines_first, features.size
    each("pointwise.cu", "timestep_features", features.size, t, features, *numbers)
    return features


# --- sums of gradients ---------------------------------------------------------------------------


@float32_only
def add(a, b):
    (total,) = empty(a.shape)
    each("pointwise.cu", "add", a.size, a, b, total, a.size)
    return total


def add_to(total, x):
    if x is None:
        return total
    if not contiguous_float32(total, x):
        return reference.add_to(total, x)
    each("pointwise.cu", "add", x.size, total, x, total, x.size)
    return total


def add_all(totals, xs):
    pairs = [
        (t, x) for t, x in zip(totals, xs or (None,) * len(totals), strict=True) if x is not None
    ]
    if not all(contiguous_float32(*pair) for pair in pairs):
        return reference.add_all(totals, xs)
    for i in range(0, len(pairs), PAIRS):
        some = pairs[i : i + PAIRS]
        lines = ((t.data.ptr, x.data.ptr, x.size) for t, x in some)
        addresses = table("pair", PAIR, PAIRS, lines)
        # A thread adds four numbers or more: most arrays are small, and idle blocks cost time, too.
        grid = min(blocks(max(x.size for _, x in some), 1024), 32), len(some)
        launch("pointwise.cu", "add_all", grid, (256,), addresses)
    return totals
