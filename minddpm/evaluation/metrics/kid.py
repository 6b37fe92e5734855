"""KID: a distance between sets of features; unlike FID, it is unbiased and assumes no Gaussian."""

import math

import numpy as np

from minddpm.errors import InputError


def polynomial_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """Return an unbiased estimate of the squared MMD (maximum mean discrepancy) of two sets.

    x, y: features [m, F] and [n, F]. The result is E k(x, x') + E k(y, y') - 2 E k(x, y), where
    k(a, b) = (a.b / F + 1)^3 and x, x' (and y, y') are different images. Its expectation is zero if
    both sets come from one distribution, so a single value may be negative.
    Raises InputError for fewer than two images.
    Source: Binkowski et al. 2018, eq. 4 and section 3; Gretton et al. 2012, eq. 3.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if min(len(x), len(y)) < 2:
        raise InputError(f"KID of {len(x)} and {len(y)} images: give at least two of each.")

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a @ b.T / a.shape[1] + 1) ** 3

    def among(a: np.ndarray) -> float:
        k = kernel(a, a)
        return (k.sum() - np.trace(k)) / (len(a) * (len(a) - 1))

    return float(among(x) + among(y) - 2 * kernel(x, y).mean())


def kernel_inception_distance(
    real: np.ndarray, generated: np.ndarray, block: int = 1000
) -> tuple[float, float]:
    """Return the mean of polynomial_mmd over disjoint blocks of both sets, and its standard error.

    real, generated: features [n, F]. Blocks share no image, so their values are independent, and
    the standard error follows from their standard deviation; it is nan for a single block.
    """
    n = min(len(real), len(generated))
    blocks = max(1, n // block)
    size = min(block, n)
    values = [
        polynomial_mmd(real[i * size : (i + 1) * size], generated[i * size : (i + 1) * size])
        for i in range(blocks)
    ]
    error = np.std(values, ddof=1) / math.sqrt(blocks) if blocks > 1 else math.nan
    return float(np.mean(values)), float(error)
