"""What the tests of the diffusion process share: its formulas in plain float64, and images."""

import math

import numpy as np

from minddpm.diffusion.schedules import linear

T = 30
BETAS = linear(T)
PREDICTIONS = ("epsilon", "x0", "v")
VARIANCES = ("fixed_small", "fixed_large")


def ac(t):
    """Return alphas_cumprod[t]: the fraction of the image's variance left; 1 for t = -1."""
    left = 1.0
    for beta in BETAS[: t + 1]:
        left *= 1 - beta
    return left


def posterior_variance(t):
    """Return beta_t (1 - ac_{t-1}) / (1 - ac_t), equation 7."""
    return BETAS[t] * (1 - ac(t - 1)) / (1 - ac(t))


def perfect_output(prediction, t, x0, noise):
    """Return the output of a perfect model."""
    a, b = math.sqrt(ac(t)), math.sqrt(1 - ac(t))
    return {"epsilon": noise, "x0": x0, "v": a * noise - b * x0}[prediction]


def images(seed, N=3, C=2, dtype=np.float64):
    """Return N images [4, 5, C] of standard normal numbers."""
    return np.random.default_rng(seed).standard_normal((N, 4, 5, C)).astype(dtype)


def every_t(x):
    """Return the same image [4, 5, C] for each t, and all t: [T, 4, 5, C] and int [T]."""
    return np.broadcast_to(x, (T, *x.shape)).copy(), np.arange(T)


def per_image(array):
    """Return the values [N] of a table [N, 1, 1, 1]."""
    assert array.shape[1:] == (1, 1, 1)
    return array[:, 0, 0, 0]
