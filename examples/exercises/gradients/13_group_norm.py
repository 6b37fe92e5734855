"""Exercise 13: the gradients of group normalisation.

The C channels of an image form G groups. Each group of each image is shifted and scaled to mean 0
and variance 1 over all its pixels and channels; then each channel has its own weight and bias:

    n = (x - mean) rstd        rstd = 1 / sqrt(variance + eps)
    y = n weight + bias                                                   (Wu and He 2018)

    one image, C = 4 channels, G = 2 groups:

    channel            0     1   |   2     3
    pixel 0            .     .   |   .     .
    pixel 1            .     .   |   .     .          as many pixels as H x W
    ...                .     .   |   .     .
    mean and rstd     mean[n, 0] |  mean[n, 1]        one for each group of each image: [N, G]
    weight, bias      w0    w1   |  w2    w3          one for each channel: [C]

The gradients of weight and bias sum over images and pixels. That of x has three terms, because mean
and rstd depend on every x of the group. With gn = gy weight, and avg the mean over a group:

    gx = rstd (gn - avg(gn) - n avg(gn n))

Check your solution: python examples/exercises/check.py 13
"""

import numpy as np


def group_norm(
    x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int, eps: float
) -> np.ndarray:
    """Return y, [N, H, W, C]; x [N, H, W, C], weight and bias [C]. Given."""
    N, H, W, C = x.shape
    grouped = x.reshape(N, H, W, groups, C // groups)
    mean = grouped.mean(axis=(1, 2, 4), keepdims=True)
    variance = grouped.var(axis=(1, 2, 4), keepdims=True)
    n = (grouped - mean) / np.sqrt(variance + eps)
    return n.reshape(x.shape) * weight + bias


def group_norm_backward(
    gy: np.ndarray, x: np.ndarray, weight: np.ndarray, groups: int, eps: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return gx, float64 [N, H, W, C], gweight and gbias, float64 [C].

    gy, x: float64 [N, H, W, C]. weight: float64 [C]. groups: divides C. eps: above 0.
    """
    # TODO
    raise NotImplementedError


# Hints. Scroll down, and read one at a time.
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
#
# 1. Compute mean, rstd and n again, as in group_norm.
# 2. gbias and gweight: sums over axes (0, 1, 2) of gy and of gy n, in the shape of x.
# 3. Reshape gy weight to the grouped shape; avg is .mean(axis=(1, 2, 4), keepdims=True).
# 4. Reshape gx back to the shape of x at the end.
