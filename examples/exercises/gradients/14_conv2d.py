"""Exercise 14: the gradients of a convolution, 3 x 3 with padding 1.

    y[n, i, j, :] = sum over kh, kw of p[n, i + kh, j + kw, :] w[kh, kw] + b

p is x with a border of zeros, and w[kh, kw] a matrix of C rows and K columns. So a convolution is
the sum of nine matrix products, each with a shifted window of p, as conv2d below computes it.

    p [H+2, W+2]                     the window for kh = 0, kw = 2
      0 0 0 0 0 0                      . . # # # #
      0 x x x x 0                      . . # # # #       p[kh : kh + H, kw : kw + W]
      0 x x x x 0                      . . # # # #
      0 x x x x 0                      . . . . . .       Backward: the window of gp gets what
      0 0 0 0 0 0                      . . . . . .       this product adds, nine times.

For each of the nine products, exercise 10 says what to do. gx is the inside of gp: the border of
zeros is cut off. (Dumoulin and Visin 2016, chapter 4.)

Check your solution: python examples/exercises/check.py 14
"""

import numpy as np


def conv2d(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return y [N, H, W, K]; x [N, H, W, C], w [3, 3, C, K], b [K]. Given."""
    H, W = x.shape[1:3]
    p = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = [(kh, kw) for kh in range(3) for kw in range(3)]
    return sum(p[:, kh : kh + H, kw : kw + W] @ w[kh, kw] for kh, kw in windows) + b


def conv2d_backward(
    gy: np.ndarray, x: np.ndarray, w: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return gx, float64 [N, H, W, C], gw, float64 [3, 3, C, K], and gb, float64 [K].

    gy: float64 [N, H, W, K]. x: float64 [N, H, W, C]. w: float64 [3, 3, C, K].
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
# 1. Start with gp = np.zeros_like(p) and gw = np.zeros_like(w); loop over kh and kw.
# 2. gp[:, kh : kh + H, kw : kw + W] += gy @ w[kh, kw].T
# 3. gw[kh, kw] is the window, as a matrix [N H W, C], transposed, times gy as [N H W, K].
# 4. b is added to every pixel of every image: gb is a sum over axes (0, 1, 2).
