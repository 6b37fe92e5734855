"""The decoder, the last term of the bound: the probability of a pixel of 256 grey levels.

Ho et al. 2020, equation 13: the level x0 represents all numbers of its bin,

    P(x0) = integral from x0 - 1/255 to x0 + 1/255 of N(x; mean, sigma^2) dx,

and the bins of black (-1) and white (1) extend to -infinity and infinity. (The lecture slides begin
every bin at -infinity; and with pixels in [0, 1] the edges -1 and 1 would have no meaning.)

Far from the mean P is much too small for a float64, and a difference of two numbers near 1. So the
logarithm is computed directly, from the tail on the bin's side. With Q(z) = P(Z > z):

    Q(z) = exp(-z^2/2) E(z / sqrt(2)) / 2,    E(x) = exp(x^2) erfc(x), which varies slowly.
"""

import math
from functools import cache

import numpy as np

from minddpm.backend import Array, array_module

HALF_BIN = 1 / 255  # 256 levels from -1 to 1
EDGE = 0.999  # beyond it a pixel is black or white, and its bin open


def log_likelihood(x0: Array, mean: Array, log_sigma: Array) -> Array:
    """Return log P(x0) in nats: x0 in -1 .. 1, multiples of 2/255; all float64, of one shape."""
    lower, upper = _bounds(x0, mean, log_sigma)
    return _log_probability(lower, upper)


def log_likelihood_gradients(x0: Array, mean: Array, log_sigma: Array) -> tuple[Array, Array]:
    """Return d log P / d mean and d log P / d log_sigma.

    With u, l the bounds in units of sigma and phi the standard normal density:
    dP/dmean = -(phi(u) - phi(l)) / sigma;  dP/dlog_sigma = -(u phi(u) - l phi(l))
    """
    xp = array_module(mean)
    lower, upper = _bounds(x0, mean, log_sigma)
    log_p = _log_probability(lower, upper)

    def density(z: Array) -> Array:
        # phi(z) / P, both of which may be 0
        return xp.exp(-z * z / 2 - math.log(2 * math.pi) / 2 - log_p)

    at_lower, at_upper = density(lower), density(upper)
    # z phi(z) is 0 at infinity, where floating point computes infinity times 0.
    u, l = (xp.where(xp.isinf(z), 0.0, z) for z in (upper, lower))  # noqa: E741
    return -(at_upper - at_lower) * xp.exp(-log_sigma), -(u * at_upper - l * at_lower)


def _bounds(x0: Array, mean: Array, log_sigma: Array) -> tuple[Array, Array]:
    """Return where the bin begins and ends, in units of sigma from the mean."""
    xp = array_module(mean)
    per_sigma = xp.exp(-log_sigma)
    lower = xp.where(x0 < -EDGE, -math.inf, (x0 - mean - HALF_BIN) * per_sigma)
    upper = xp.where(x0 > EDGE, math.inf, (x0 - mean + HALF_BIN) * per_sigma)
    return lower, upper


def _log_probability(lower: Array, upper: Array) -> Array:
    """Return log(Phi(upper) - Phi(lower)), to about 1e-12 of P."""
    xp = array_module(lower)
    # The normal distribution is symmetric: mirror the bin so that its middle is at or above 0.
    below = lower + upper < 0
    near, far = xp.where(below, -upper, lower), xp.where(below, -lower, upper)
    root = math.sqrt(0.5)
    # The bin lies above 0: Q(near) - Q(far), with exp(-near^2 / 2), which may be 0, factored out.
    a = xp.maximum(near, 0)
    ratio = xp.exp((a - far) * (a + far) / 2)
    tail = -a * a / 2 + xp.log((scaled_erfc(a * root) - ratio * scaled_erfc(far * root)) / 2)
    # The bin contains 0: 1 minus both tails.
    b = xp.maximum(-near, 0)
    outside = sum(xp.exp(-z * z / 2) * scaled_erfc(z * root) / 2 for z in (b, far))
    within = xp.log1p(-xp.where(near > 0, 0.0, outside))
    return xp.where(near > 0, tail, within)


MIDDLE = 3.75  # of the map of 0 .. infinity to -1 .. 1


def scaled_erfc(x: Array) -> Array:
    """Return exp(x^2) erfc(x) for x >= 0, infinity included, to 1e-13 relative.

    (1 + 2x) exp(x^2) erfc(x) goes from 1 to 2 / sqrt(pi); as a function of
    t = (x - 3.75) / (x + 3.75) it is close to a polynomial (Shepherd and Laframboise 1981).
    """
    t = 1 - 2 * MIDDLE / (x + MIDDLE)
    # Clenshaw's sum of the Chebyshev polynomials: b_k = c_k + 2 t b_{k+1} - b_{k+2}
    first, *others = _coefficients()
    b1 = b2 = 0.0
    for c in reversed(others):
        b1, b2 = c + 2 * t * b1 - b2, b1
    return (first + t * b1 - b2) / (1 + 2 * x)


@cache
def _coefficients() -> tuple[float, ...]:
    """Return the Chebyshev coefficients, from the function itself at as many points."""

    def function(t: np.ndarray) -> np.ndarray:
        xs = MIDDLE * (1 + t) / (1 - t)
        return np.array([(1 + 2 * x) * _scaled_erfc_of(x) for x in xs.tolist()])

    return tuple(np.polynomial.chebyshev.chebinterpolate(function, 34).tolist())


def _scaled_erfc_of(x: float) -> float:
    if x < 4:
        return math.exp(x * x) * math.erfc(x)
    # E(x) = 1 / sqrt(pi) / (x + (1/2) / (x + (2/2) / (x + (3/2) / (x + ...))))
    fraction = x
    for k in range(60, 0, -1):
        fraction = x + k / 2 / fraction
    return 1 / math.sqrt(math.pi) / fraction
