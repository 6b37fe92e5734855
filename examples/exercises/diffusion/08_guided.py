"""Exercise 8: classifier-free guidance. Exaggerate the effect of a class.

The model was trained with the class of each image, and now and then with none, which is one more
class. So it gives two predictions of the noise. Guidance goes from one through the other:

    eps = eps_none + guidance (eps_class - eps_none)
                            (Ho and Salimans 2022, equation 6, with w = guidance - 1)

    guidance        0              1              2
                 eps_none ---> eps_class ---> beyond: more typical, less varied

This model has 2 C output channels, because it learns its variance, too: the first C are the
prediction of the noise, the last C say what the variance is. Only the noise is guided; the variance
is the one given the class.

    model's output  [ eps: channels 0 .. C-1 | variance: channels C .. 2C-1 ]
                      guided                   of the call with the class

Check your solution: python examples/exercises/check.py 8
"""

from collections.abc import Callable

import numpy as np


def guided(
    model: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    x_t: np.ndarray,
    t: np.ndarray,
    labels: np.ndarray,
    none: int,
    guidance: float,
) -> np.ndarray:
    """Return the guided output, float64 [N, H, W, 2 C].

    model: (x_t, t, labels int64 [N]) -> output [N, H, W, 2 C]. x_t: float64 [N, H, W, C].
    t: int64 [N]. labels: int64 [N], each 0 .. none-1. none: the label that means no class.
    guidance: at least 0.
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
# 1. The labels of the second call: np.full_like(labels, none).
# 2. C = x_t.shape[-1]; output[..., :C] is the noise, output[..., C:] the variance.
# 3. np.concatenate([..., ...], axis=-1) puts the parts together.
