"""Group normalisation, with and without SiLU (norm.cu)."""

import math

from minddpm.kernels.cuda.ladder import BFLOAT16, two_parts
from minddpm.kernels.cuda.launch import aligned, counters, cupy, empty, launch
from minddpm.kernels.float32 import float32_only

KEPT = 7  # vectors in a thread's registers, as in norm.cu
# Options of norm.cu by the type of the y that it writes (narrow.cuh).
OPTIONS = {"float32": (), "float16": ("-DSTORED",), BFLOAT16: ("-DSTORED", "-DBF16")}


def _layout(xs, groups, *arrays):
    """Return options, the threads of a block, its groups, and the number of an image's blocks.

    A block reads and writes whole sectors of 32 bytes, of 16-bit numbers too, if the groups can be
    divided like that. arrays: that are read or written in vectors, as xs are.
    """
    size, together, threads = sum(x.shape[-1] for x in xs) // groups, 1, 128
    while together < 16 and together * size % 16 and groups % (2 * together) == 0:
        together *= 2
    vector = size % 4 == xs[0].shape[-1] % 4 == 0 and aligned(*xs, *arrays)
    pixels = math.prod(xs[0].shape[1:-1])
    while threads < 512 and threads * KEPT * (4 if vector else 1) < pixels * size * together:
        threads *= 2
    return () if vector else ("-DLANES=1",), (threads,), (together, groups // together)


def normalise(xs, weight, bias, groups, eps, with_silu, stored="float32"):
    """Return y, mean and rstd; xs: one or two parts of x; stored: the type of y, from OPTIONS."""
    N, C = xs[0].shape[0], len(weight)
    P, C1 = xs[0].size // (N * xs[0].shape[-1]), xs[0].shape[-1]
    y = cupy().empty((*xs[0].shape[:-1], C), stored)
    mean, rstd = empty((N, groups), (N, groups))
    lanes, block, split = _layout(xs, groups, weight, bias, y)
    launch(
        "norm.cu", "group_norm", (split[1] * N,), block, *two_parts(xs), C1, weight, bias, y, mean,
        rstd, P, C, C // groups, *split, eps, with_silu, options=OPTIONS[stored] + lanes,
    )  # fmt: skip
    return y, mean, rstd


def normalise_backward(gy, xs, weight, bias, mean, rstd, groups, with_silu, partial=()):
    """Return gxs (one for each part of x, partial added), gweight and gbias."""
    N, C = xs[0].shape[0], len(weight)
    P, C1 = xs[0].size // (N * xs[0].shape[-1]), xs[0].shape[-1]
    gxs = empty(*(x.shape for x in xs))
    gweight, gbias, sums = empty(C, C, (2, N, C))
    arrays = gy, weight, bias, *partial, *gxs, gweight, gbias, sums
    lanes, block, split = _layout(xs, groups, *arrays)
    launch(
        "norm.cu", "group_norm_backward", (split[1] * N,), block, gy, *two_parts(xs), C1, weight,
        bias, mean, rstd, *two_parts(partial), *two_parts(gxs), gweight, gbias, sums,
        counters(split[1]), P, C, C // groups, *split, with_silu, options=lanes,
    )  # fmt: skip
    return gxs, gweight, gbias


@float32_only
def group_norm(x, weight, bias, groups: int, eps: float):
    return normalise((x,), weight, bias, groups, eps, False)


@float32_only
def group_norm_backward(gy, x, weight, mean, rstd, groups: int, partial=None):
    # The kernel reads the bias only with SiLU: any array of C numbers will do.
    arrays = gy, (x,), weight, weight, mean, rstd
    (gx,), gweight, gbias = normalise_backward(*arrays, groups, False, (partial,))
    return gx, gweight, gbias


@float32_only
def group_norm_silu(x, weight, bias, groups: int, eps: float):
    return normalise((x,), weight, bias, groups, eps, True)


@float32_only
def group_norm_silu_backward(gy, x, weight, bias, mean, rstd, groups: int):
    (gx,), gweight, gbias = normalise_backward(gy, (x,), weight, bias, mean, rstd, groups, True)
    return gx, gweight, gbias
