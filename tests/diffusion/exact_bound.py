"""Exact values for the tests of the bound, computed with 60 decimal digits."""

import mpmath
import numpy as np

from minddpm.diffusion import decoder

mp = mpmath.MPContext()  # a context of its own: other tests keep their precision
mp.dps = 60

LEVELS = np.arange(256) / 127.5 - 1


def floats(*values):
    """Return an array of one element for each value."""
    return [np.array([v]) for v in values]


def exact_probability(x0, mean, log_sigma):
    """Return the integral of equation 13 by its definition."""
    mean, sigma = mp.mpf(mean), mp.exp(log_sigma)
    half = mp.mpf(decoder.HALF_BIN)
    lower = -mp.inf if x0 == -1 else (x0 - mean - half) / sigma
    upper = mp.inf if x0 == 1 else (x0 - mean + half) / sigma
    if lower + upper > 0:  # the difference of two numbers near 1 would cancel
        lower, upper = -upper, -lower
    return mp.ncdf(upper) - mp.ncdf(lower)


def exact_bits(d, output, x0, x_t, t):
    """Return the term of one pixel by the definition; output: the numbers (prediction, v)."""
    mpf = mp.mpf
    betas = [mpf(float(b)) for b in d.betas]
    ac = mp.fprod(1 - b for b in betas[: t + 1])
    ac_prev = mp.fprod(1 - b for b in betas[:t])
    beta = betas[t]
    prediction, *v = map(mpf, output)
    pred_x0 = {
        "epsilon": (x_t - mp.sqrt(1 - ac) * prediction) / mp.sqrt(ac),
        "x0": prediction,
        "v": mp.sqrt(ac) * x_t - mp.sqrt(1 - ac) * prediction,
    }[d.prediction]
    if d.clip_x0:
        pred_x0 = max(mpf(-1), min(mpf(1), pred_x0))

    def mean(x0):
        first = mp.sqrt(ac_prev) * beta / (1 - ac) * x0
        return first + mp.sqrt(1 - beta) * (1 - ac_prev) / (1 - ac) * x_t

    def posterior_variance(t):
        ac = mp.fprod(1 - b for b in betas[: t + 1])
        return betas[t] * (1 - mp.fprod(1 - b for b in betas[:t])) / (1 - ac)

    small = posterior_variance(max(t, 1))
    if v:
        log = (v[0] + 1) / 2 * mp.log(beta) + (1 - v[0]) / 2 * mp.log(small)
    else:
        log = mp.log(small if d.variance == "fixed_small" or t == 0 else beta)
    if t == 0:
        return -mp.log(exact_probability(x0, mean(pred_x0), log / 2)) / mp.log(2)
    ratio = small / mp.exp(log)
    distance = (mean(x0) - mean(pred_x0)) ** 2 / mp.exp(log)
    return (ratio - 1 - mp.log(ratio) + distance) / 2 / mp.log(2)
