"""Exercise 12: the gradient of softmax.

Softmax makes probabilities from each row of scores, and is at the heart of attention:

    y[n, i] = exp(x[n, i]) / (sum over j of exp(x[n, j]))

Raising one score raises its own probability and lowers all others of its row:

    dy[n, i] / dx[n, j] = y[n, i] ((1 if i = j else 0) - y[n, j])         (Bishop 2006, 4.106)

        y      0.2  0.5  0.3             after x1 rises a little:
               |    |    |               y1 rises by      0.5 (1 - 0.5)
               +----+----+ sum is 1      y0 falls by      0.2 * 0.5
                                         y2 falls by      0.3 * 0.5

Multiply by gy[n, i] and sum over i: you get gx[n, j], without any matrix of K x K numbers.

Check your solution: python examples/exercises/check.py 12
"""

import numpy as np


def softmax(x: np.ndarray) -> np.ndarray:
    """Return y: probabilities over the last axis, [N, K]. Given."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))  # a shift changes nothing, and avoids overflow
    return e / e.sum(axis=-1, keepdims=True)


def softmax_backward(gy: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return gx, float64 [N, K].

    gy: float64 [N, K]. y: float64 [N, K], the result of softmax.
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
# 1. gx[j] = sum over i of gy[i] y[i] (delta_ij - y[j]). The delta keeps one term of the sum.
# 2. That leaves gy[j] y[j] - y[j] (sum over i of gy[i] y[i]): the sum is one number per row.
# 3. keepdims=True keeps the sum's shape [N, 1], which meets [N, K] row by row.
