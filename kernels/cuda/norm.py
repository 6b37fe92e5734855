"""Group normalisation, with and without SiLU (norm.cu)."""

from minddpm.kernels.cuda.ladder import BFLOAT16, two_parts
from minddpm.kernels.cuda.launch import counters, cupy, empty, launch
from minddpm.kernels.float32 import float32_only

# Options of norm.cu by the type of the y that it writes (narrow.cuh).
OPTIONS = {"float32": (), "float16": ("-DSTORED",), BFLOAT16: ("-DSTORED", "-DBF16")}


def normalise(xs, weight, bias, groups, eps, with_silu, stored="float32"):
    """Return y, mean and rstd; xs: one or two parts of x; stored: the type of y, from OPTIONS."""
    N, C = xs[0].shape[0], len(weight)
    P, C1 = xs[0].size // (N * xs[0].shape[-1]), xs[0].shape[-1]
    y = cupy().empty((*xs[0].shape[:-1], C), stored)
    mean, rstd = empty((N, groups), (N, groups))
    launch(
        "norm.cu", "group_norm", (groups * N,), (256,), *two_parts(xs), C1, weight, bias, y, mean,
        rstd, P, C, C // groups, eps, with_silu, options=OPTIONS[stored],
    )  # fmt: skip
    return y, mean, rstd


def normalise_backward(gy, xs, weight, bias, mean, rstd, groups, with_silu, partial=()):
    """Return gxs (one for each part of x, partial added), gweight and gbias."""
    N, C = xs[0].shape[0], len(weight)
    P, C1 = xs[0].size // (N * xs[0].shape[-1]), xs[0].shape[-1]
    gxs = empty(*(x.shape for x in xs))
    gweight, gbias, sums = empty(C, C, (2, N, C))
    launch(
        "norm.cu", "group_norm_backward", (groups * N,), (256,), gy, *two_parts(xs), C1, weight,
        bias, mean, rstd, *two_parts(partial), *two_parts(gxs), gweight, gbias, sums,
        counters(groups), P, C, C // groups, with_silu,
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
