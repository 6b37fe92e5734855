"""Exercise 1: q_sample. Noise an image in one jump.

The forward process adds a little noise in each of T steps. Because a sum of normal numbers is
normal, all steps up to t are one step. With ac short for alphas_cumprod, which falls from nearly 1
at t = 0 to nearly 0 at t = T-1:

    x_t = sqrt(ac[t]) x0 + sqrt(1 - ac[t]) noise            (Ho et al. 2020, equation 4)

           x0 --> x --> x --> ... --> x_t      t + 1 small steps
            |                          ^
            +--------------------------+       one jump: q_sample

    x0    [N, H, W, C] --- times sqrt(ac[t]) -------+
                                                    +--> x_t [N, H, W, C]
    noise [N, H, W, C] --- times sqrt(1 - ac[t]) ---+

Each image n of the batch has its own timestep t[n]. t is 0-based, as everywhere in this project:
t = 0 is the image after the first step.

Check your solution: python examples/exercises/check.py 1
"""

import numpy as np


def q_sample(
    x0: np.ndarray, t: np.ndarray, noise: np.ndarray, alphas_cumprod: np.ndarray
) -> np.ndarray:
    """Return x_t, float64 [N, H, W, C].

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
# 1. alphas_cumprod[t] picks one number for each image: its shape is [N].
# 2. NumPy aligns shapes at their last axes, so [N] would meet the channels: reshape it to
#    [N, 1, 1, 1] first.
