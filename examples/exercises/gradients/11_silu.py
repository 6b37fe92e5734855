r"""Exercise 11: the gradient of SiLU, the UNet's activation.

    y = x s(x),   s(x) = 1 / (1 + exp(-x))        (Hendrycks and Gimpel 2016; Elfwing et al. 2017)

                   y |        /
                     |      /
                     |    /         slope 1 far to the right, 0 far to the left,
                     |  /           and 0.5 at x = 0
    -----------.-----+------------ x
                `---'

y is applied to each number alone, so gx is gy times the slope dy/dx, number by number. By the
product rule the slope has two terms; s' = s (1 - s).

The values of x may be as far out as -1000 or 1000: no entry of the result may be NaN.

Check your solution: python examples/exercises/check.py 11
"""

import numpy as np


def silu(x: np.ndarray) -> np.ndarray:
    """Return y = x s(x). Given. tanh does not overflow, and s(x) = (1 + tanh(x/2)) / 2."""
    return x * (1 + np.tanh(x / 2)) / 2


def silu_backward(gy: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return gx, float64, of the shape of x.

    gy, x: float64, of the same shape, any shape.
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
# 1. The two terms: s from x' = 1, and x s' = x s (1 - s).
# 2. Compute s as silu() does: exp(x) / (1 + exp(x)) is inf / inf for x = 1000.
