"""Exercise 16: Adam, the optimiser that uses the gradients.

Adam keeps two moving averages of each parameter's gradient: m of the gradient itself, and v of its
square. It steps along m, in units of the typical size sqrt(v):

    m = beta1 m + (1 - beta1) grad
    v = beta2 v + (1 - beta2) grad^2
    m_hat = m / (1 - beta1^step)      v_hat = v / (1 - beta2^step)
    param = param - lr m_hat / (sqrt(v_hat) + eps)      (Kingma and Ba 2015, algorithm 1)

    share of its value that m has reached, for a constant gradient and beta1 = 0.9

    step     1     2     3    ...   10          m starts at 0 and needs many steps to
    m      .10   .19   .27   ...  .65           catch up; dividing by that share, which
    m_hat   1     1     1    ...    1           is 1 - beta1^step, makes up for it

step counts from 1. Return new arrays: the old ones still belong to the caller.

Check your solution: python examples/exercises/check.py 16
"""

import numpy as np


def adam(
    param: np.ndarray,
    grad: np.ndarray,
    m: np.ndarray,
    v: np.ndarray,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return param, m and v after one step, float64 [P] each.

    param, grad, m, v: float64 [P]. step: 1, 2, 3, ...
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
# 1. Five lines, in the order of the text; m and v on the left side are new arrays.
# 2. The values that you return are m and v, not m_hat and v_hat.
