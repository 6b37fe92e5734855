"""Exercise 10: the gradients of a matrix product, the heart of every layer.

    y[n, k] = sum over c of x[n, c] w[c, k]

x[n, c] is in every y[n, k], with the factor w[c, k]; w[c, k] is in every y[n, k], with the factor
x[n, c]. So each gradient is again a matrix product, with one factor transposed. Which one, the
shapes nearly say:

                 w  [C, K]                        gw [C, K]
    x [N, C]     y  [N, K]          gx [N, C]     gy [N, K]

    dloss/dx[n, c] = sum over k of gy[n, k] dy[n, k]/dx[n, c]
    dloss/dw[c, k] = sum over n of gy[n, k] dy[n, k]/dw[c, k]

(Goodfellow et al. 2016, "Deep Learning", section 6.5.6.)

Check your solution: python examples/exercises/check.py 10
"""

import numpy as np


def matmul(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return y = x w, [N, K]. Given."""
    return x @ w


def matmul_backward(gy: np.ndarray, x: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return gx, float64 [N, C], and gw, float64 [C, K].

    gy: float64 [N, K]. x: float64 [N, C]. w: float64 [C, K].
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
# 1. dy[n, k]/dx[n, c] is w[c, k]: put it into the third formula.
# 2. The sum runs over k, the second index of gy and of w: gy times w transposed.
# 3. For gw the sum runs over n, the first index of both: x transposed times gy.
