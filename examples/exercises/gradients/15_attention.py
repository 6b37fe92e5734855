"""Exercise 15: the gradients of attention, one head.

Each of L pixels asks (q) all pixels (k), and takes a mixture of what they have (v):

    s = q k^T / sqrt(D)        p = softmax(s) over the last axis        y = p v
                                                                  (Vaswani et al. 2017, equation 1)

    q [L, D] --+
               +--> s [L, L] --> p [L, L] --+
    k [L, D] --+                            +--> y [L, D]        and so for each of N images
    v [L, D] -------------------------------+

Walk the drawing backwards: y = p v is a matrix product (exercise 10), then softmax (exercise 12),
then another product, with the factor 1/sqrt(D), which the gradients have, too.

Check your solution: python examples/exercises/check.py 15
"""

import numpy as np


def attention_weights(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Return p, [N, L, L]; q, k [N, L, D]. Given."""
    s = q @ k.swapaxes(1, 2) / np.sqrt(q.shape[2])
    e = np.exp(s - s.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return y, [N, L, D]; q, k, v [N, L, D]. Given."""
    return attention_weights(q, k) @ v


def attention_backward(
    gy: np.ndarray, q: np.ndarray, k: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return gq, gk and gv, float64 [N, L, D].

    gy, q, k, v: float64 [N, L, D].
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
# 1. The transpose of each image's matrix is a.swapaxes(1, 2).
# 2. gv = p^T gy and gp = gy v^T.
# 3. gs = p (gp - sum over the last axis of gp p), from exercise 12.
# 4. s = q k^T / sqrt(D), so gq = gs k / sqrt(D) and gk = gs^T q / sqrt(D).
