"""Group normalisation, with and without SiLU (norm.cu)."""

import math

from minddpm.kernels.cuda.ladder import BFLOAT16, two_parts
from minddpm.kernels.cuda.launch import aligned, blocks, counters, cupy, empty, launch
from minddpm.kernels.float32 import float32_only

KEPT = 7  # vectors in a thread's registers, as in norm.cu
NEIGHBOURS = 16  # they fill sectors of 32 bytes, those stored in 16 bits, too
# Threads of a block at most, as in norm.cu, and its warps at least: a forward has few threads that
# wait for many others. A backward's block has sums of its own, so there should be fewer of them.
FORWARD, BACKWARD = (448, 2), (320, 4)
# Options of norm.cu by the type of the y that it writes (narrow.cuh).
OPTIONS = {"float32": (), "float16": ("-DSTORED",), BFLOAT16: ("-DSTORED", "-DBF16")}


def _layout(xs, groups, most_threads, warps, *arrays):
    """Return options, the threads of a block, its groups, and the number of an image's blocks.

    A block has NEIGHBOURS numbers of a pixel, if the groups can be divided like that, and at least
    `warps` warps. arrays: that are read or written in vectors, as xs are.
    """
    size, pixels = sum(x.shape[-1] for x in xs) // groups, math.prod(xs[0].shape[1:-1])
    vector = size % 4 == xs[0].shape[-1] % 4 == 0 and aligned(*xs, *arrays)
    lanes, together = 4 if vector else 1, 1
    while (
        together * size % NEIGHBOURS
        and groups % (2 * together) == 0
        and 2 * together * size <= most_threads * lanes
    ):
        together *= 2
    width = together * size // lanes  # vectors of a pixel
    threads = 32 * max(warps, blocks(width, 32), blocks(width * pixels, 32 * KEPT))
    options = (() if vector else ("-DLANES=1",)) + (("-DWIDE",) if width > most_threads else ())
    return options, (min(threads, most_threads),), (together, groups // together)


def normalise(xs, weight, bias, groups, eps, with_silu, stored="float32"):
    """Return y, mean and rstd; xs: one or two parts of x; stored: the type of y, from OPTIONS."""
    N, C = xs[0].shape[0], len(weight)
    P, C1 = xs[0].size // (N * xs[0].shape[-1]), xs[0].shape[-1]
    y = cupy().empty((*xs[0].shape[:-1], C), stored)
    mean, rstd = empty((N, groups), (N, groups))
    lanes, block, split = _layout(xs, groups, *FORWARD, weight, bias, y)
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
    gweight, gbias, sums = empty(C, C, (N, 2, C))
    arrays = gy, weight, bias, *partial, *gxs, gweight, gbias, sums
    lanes, block, split = _layout(xs, groups, *BACKWARD, *arrays)
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
