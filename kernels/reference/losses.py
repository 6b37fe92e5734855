"""The mean squared error of each image, with which a diffusion model is trained."""

import math

from minddpm.kernels.arrays import Array, array_module


def mean_squared_errors(x: Array, target: Array) -> Array:
    """Return the mean of (x - target)^2 over each image: both [N, ...] -> [N]."""
    return array_module(x).square(x - target).mean(axis=tuple(range(1, x.ndim)))


def mean_squared_errors_backward(gy: Array, x: Array, target: Array) -> Array:
    """Return gx = 2 gy[n] (x - target) / P: gy [N], x and target [N, ...] of P numbers an image."""
    P = math.prod(x.shape[1:])
    return (gy * (2 / P)).reshape(-1, *(1,) * (x.ndim - 1)) * (x - target)
