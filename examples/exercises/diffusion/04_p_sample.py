"""Exercise 4: one sampling step. Line 4 of Algorithm 2.

Sampling starts from pure noise and removes a little of it in each step. Given the model's
prediction eps of the noise in x_t, with ac short for alphas_cumprod:

    x_{t-1} = (x_t - beta[t] / sqrt(1 - ac[t]) eps) / sqrt(alpha[t]) + sigma[t] z
                                                            (Ho et al. 2020, Algorithm 2)
    sigma[t]^2 = beta[t] (1 - ac[t-1]) / (1 - ac[t])        (the variance of exercise 2)

           model's eps              fresh noise z, N(0, 1)
                |                           |
                v                           v
    x_t --> subtract a part --> scale --> add sigma z --> x_{t-1}

The last step (t = 0) adds no noise: its result is the image. The other steps do, because
x_{t-1} is drawn from a distribution, and its mean alone would be too smooth.

Check your solution: python examples/exercises/check.py 4
"""

import numpy as np


def p_sample(
    x_t: np.ndarray, t: int, eps: np.ndarray, z: np.ndarray, betas: np.ndarray
) -> np.ndarray:
    """Return x_{t-1}, float64 [N, H, W, C].

    x_t, eps, z: float64 [N, H, W, C]; z is standard normal. t: 0 .. T-1, the same for all images.
    betas: float64 [T].
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
# 1. alpha[t] is 1 - betas[t]; ac[t] is the product of all alphas up to t.
# 2. ac[t-1] at t = 0 is 1, and then sigma is 0: the special case needs no `if`.
# 3. sigma is a standard deviation: the square root of the variance.
