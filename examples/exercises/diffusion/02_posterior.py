"""Exercise 2: the posterior. One step back, if the image were known.

Given x_t and the image x0 that it came from, x_{t-1} has a normal distribution. The model will have
to guess x0; this exercise knows it. With ac short for alphas_cumprod:

    mean     = sqrt(ac[t-1]) beta[t] / (1 - ac[t]) x0
             + sqrt(alpha[t]) (1 - ac[t-1]) / (1 - ac[t]) x_t
    variance = beta[t] (1 - ac[t-1]) / (1 - ac[t])          (Ho et al. 2020, equations 6 and 7)
    alpha[t] = 1 - beta[t]        ac[t] = alpha[0] alpha[1] ... alpha[t]

    t      -1     0      1      2    ...    T-1
    ac      1   ac[0]  ac[1]  ac[2]  ...  ac[T-1]
            ^
            before the first step there is no noise: ac[-1] means 1, not the last entry

             pulls towards the image          stays near x_t
       x0 -------------------------> x_{t-1} <---------------- x_t

Check your solution: python examples/exercises/check.py 2
"""

import numpy as np


def posterior(
    x0: np.ndarray, x_t: np.ndarray, t: np.ndarray, betas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean, float64 [N, H, W, C], and the variance, float64 [N, 1, 1, 1].

    x0, x_t: float64 [N, H, W, C]. t: int64 [N], 0 .. T-1. betas: float64 [T].
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
# 1. Make a table for every t first: np.cumprod(1 - betas) is ac.
# 2. The table of ac[t-1] is np.append(1.0, ac[:-1]): shifted by one, and 1 at t = 0.
# 3. Compute the tables of both coefficients and of the variance, pick [t] from each, and reshape
#    to [N, 1, 1, 1].
# 4. At t = 0 the variance is 0 and the mean is x0: nothing is left to draw.
