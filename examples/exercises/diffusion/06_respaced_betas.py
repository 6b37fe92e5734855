r"""Exercise 6: respacing. Sample with fewer steps by changing nothing but the betas.

A model trained with T = 1000 can be sampled at, say, 50 of its timesteps. Each step then has to
remove the noise of several. Choose new betas, one for each visited timestep, such that the noise
level at a visited timestep is what it was; then every formula of exercises 1 to 4 holds for the
short process as it stands.           (Nichol and Dhariwal 2021, section 4)

    t             0   1   2   3   4   5   6   7   8   9      T = 10
    visited       *           *           *           *      visited = [0, 3, 6, 9], S = 4
    new beta      b0  \--b1---/   \--b2---/   \--b3---/      b1 does what beta[1], beta[2] and
                                                             beta[3] did together

    the property    (1 - b0) (1 - b1) ... (1 - b_i) = ac[visited[i]]      for every i

ac is short for alphas_cumprod: ac[t] = (1 - beta[0]) (1 - beta[1]) ... (1 - beta[t]).

Check your solution: python examples/exercises/check.py 6
"""

import numpy as np


def respaced_betas(betas: np.ndarray, visited: np.ndarray) -> np.ndarray:
    """Return the betas of the short process, float64 [S].

    betas: float64 [T]. visited: int64 [S], increasing, each 0 .. T-1; it need not begin with 0.
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
# 1. Write the property for i and for i - 1, and divide one by the other.
# 2. 1 - b_i = ac[visited[i]] / ac[visited[i-1]].
# 3. Before the first visited timestep, the noise level is that of the image: 1.
