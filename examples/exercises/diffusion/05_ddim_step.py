"""Exercise 5: DDIM. A sampling step of any length, with as much noise as you like.

The prediction eps says which image is behind x_t. DDIM goes back to that image, and noises it
again to another, lower level, t_prev. With ac short for alphas_cumprod, and p for t_prev:

    pred_x0 = (x_t - sqrt(1 - ac[t]) eps) / sqrt(ac[t])
    sigma   = eta sqrt((1 - ac[p]) / (1 - ac[t])) sqrt(1 - ac[t] / ac[p])
    x_p     = sqrt(ac[p]) pred_x0 + sqrt(1 - ac[p] - sigma^2) eps + sigma z
                                              (Song et al. 2021, equations 12 and 16)

    pure noise                                                   image
    ac = 0 ------ ac[t] ----------------- ac[p] ---------------- ac = 1
                   x_t                     x_p                  pred_x0
                    |                       ^                     |  ^
                    +--- 1. remove all of eps --------------------|--+
                                            |                     |
                                            +---------------------+
                                             2. noise it again: with eps, and sigma z

eta = 0 adds no fresh noise: the same x_T always gives the same image. eta = 1 and t_prev = t - 1
is exercise 4. The last step goes to t_prev = -1, the image itself, where ac is 1.

Check your solution: python examples/exercises/check.py 5
"""

import numpy as np


def ddim_step(
    x_t: np.ndarray,
    t: int,
    t_prev: int,
    eps: np.ndarray,
    z: np.ndarray,
    eta: float,
    alphas_cumprod: np.ndarray,
) -> np.ndarray:
    """Return x at t_prev, float64 [N, H, W, C].

    x_t, eps, z: float64 [N, H, W, C]; z is standard normal. t: 0 .. T-1. t_prev: -1 .. t-1.
    eta: 0 .. 1. alphas_cumprod: float64 [T].
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
# 1. Python's ac[-1] is the last entry; you need 1.0 if t_prev < 0 else ac[t_prev].
# 2. The total variance at t_prev is 1 - ac[t_prev]. Where sigma z contributes sigma^2 of it, eps
#    has to contribute the rest: that is the square root in front of eps.
