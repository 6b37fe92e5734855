"""The mean squared error of each image, and its gradient (losses.cu)."""

from minddpm.kernels.cuda.launch import each, empty, launch
from minddpm.kernels.float32 import float32_only


@float32_only
def mean_squared_errors(x, target):
    N = len(x)
    (errors,) = empty(N)
    launch("losses.cu", "mean_squared_errors", (N,), (256,), x, target, errors, x.size // N)
    return errors


@float32_only
def mean_squared_errors_backward(gy, x, target):
    (gx,), P = empty(x.shape), x.size // len(x)
    arrays = gy, x, target, gx
    each("losses.cu", "mean_squared_errors_backward", x.size, *arrays, P, 2 / P, x.size)
    return gx
