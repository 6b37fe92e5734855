r"""Exercise 7: the KL divergence of the variational bound, in bits/dim.

Each term L_{t-1} of the bound compares two normal distributions of every pixel: the posterior q
(exercise 2) and the model's p. For N(m1, v1) and N(m2, v2), with v1 = exp(log_variance1):

    KL( N(m1, v1) || N(m2, v2) ) = ( v1/v2 - 1 - log(v1/v2) + (m1 - m2)^2 / v2 ) / 2   in nats

             q                  p
            / \
           /   \            ___---___          0 if both are equal, else positive;
          /     \      __---         ---__     not symmetric: q comes first
    -----'-------'-----------------------------
            m1                  m2

A term is reported in bits/dim: the mean over the H W C pixels and channels of an image, divided by
log(2), because log(2) nats are one bit.            (Ho et al. 2020, equation 5)

Check your solution: python examples/exercises/check.py 7
"""

import numpy as np


def kl_bits_per_dim(
    mean1: np.ndarray, log_variance1: np.ndarray, mean2: np.ndarray, log_variance2: np.ndarray
) -> np.ndarray:
    """Return KL( N(mean1, exp(log_variance1)) || N(mean2, exp(log_variance2)) ), float64 [N].

    All float64 [N, H, W, C]. Natural logarithms of the variances, between -20 and 2.
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
# 1. log(v1/v2) is log_variance1 - log_variance2: call it d. Then v1/v2 = exp(d).
# 2. Dividing by v2 is multiplying by exp(-log_variance2).
# 3. Near d = 0, np.expm1(d) is more accurate than np.exp(d) - 1; either one passes here.
