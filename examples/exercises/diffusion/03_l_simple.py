"""Exercise 3: L_simple. The loss that trains the model.

The model sees a noised image and its timestep, and predicts the noise in it. With ac short for
alphas_cumprod:

    x_t = sqrt(ac[t]) x0 + sqrt(1 - ac[t]) noise
    L_simple = || noise - model(x_t, t) ||^2                (Ho et al. 2020, equation 14)

As in most code, the square is a mean over the pixels and channels of each image, not a sum; so the
loss of a model that always predicts 0 is about 1, whatever the image size.

    x0 ----+
           +--> x_t ---+
    noise -+           +--> model --> prediction --+
      |            t --+                           +--> (difference)^2 --> mean --> [N]
      +--------------------------------------------+

Check your solution: python examples/exercises/check.py 3
"""

from collections.abc import Callable

import numpy as np


def l_simple(
    model: Callable[[np.ndarray, np.ndarray], np.ndarray],
    x0: np.ndarray,
    t: np.ndarray,
    noise: np.ndarray,
    alphas_cumprod: np.ndarray,
) -> np.ndarray:
    """Return the loss of each image, float64 [N].

    model: (x_t [N, H, W, C], t [N]) -> predicted noise [N, H, W, C]; call it once.
    x0, noise: float64 [N, H, W, C]. t: int64 [N], 0 .. T-1. alphas_cumprod: float64 [T].
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
# 1. The first line is exercise 1.
# 2. An array's mean takes several axes: .mean(axis=(1, 2, 3)) leaves [N].
