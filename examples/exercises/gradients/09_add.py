"""Exercise 9: the gradient of a sum, with broadcasting.

If y = a + b, a change of a changes y by as much. So ga is gy; but where NumPy repeated a along an
axis to fit b, one number of a is in many of y, and its gradient is the sum of all of theirs. Here
gy is the gradient of the loss with respect to y, and ga that with respect to a.

    a [2, 1]      b [1, 3]           y [2, 3]
      a0          b0 b1 b2           a0+b0  a0+b1  a0+b2
      a1                             a1+b0  a1+b1  a1+b2

    ga [2, 1]                        gy [2, 3]
      sum of row 0   <-------------  gy00   gy01   gy02
      sum of row 1   <-------------  gy10   gy11   gy12
                                       |      |      |
    gb [1, 3]                        sums of columns

NumPy aligns shapes at their last axes: b of shape [3] counts as [1, 3], so gb is [3] again.

Check your solution: python examples/exercises/check.py 9
"""

import numpy as np


def add(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return y = a + b; their shapes can be broadcast. Given."""
    return a + b


def add_backward(gy: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return ga and gb, float64, of the shapes of a and b.

    gy: float64, of the shape of a + b. a, b: float64, of any shapes that can be broadcast.
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
# 1. Write one function unbroadcast(gy, shape), and call it for a and for b.
# 2. First the axes that the shape does not have: sum over the first gy.ndim - len(shape) axes.
# 3. Then the axes where the shape has 1 and gy has more: sum(axis=..., keepdims=True).
