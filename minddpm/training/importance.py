"""Which t to train on: those whose term of the bound varies most (Nichol and Dhariwal 2021, 3.3).

The terms of L_vlb differ by orders of magnitude, and with evenly drawn t its gradient is mostly
noise. Drawing t with probability p_t and weighing its loss with 1 / (T p_t) changes nothing on
average; and the variance is least with

    p_t proportional to sqrt(E[L_t^2])    (equation 18)

where E[L_t^2] is the mean over the last ten losses seen at t: one alone tells as much of its
picture and its noise as of t, and what was true of an earlier model no longer holds. Until every t
has ten of them, all are drawn evenly; afterwards one in a thousand still is, so that none is
forgotten.
"""

import numpy as np

from minddpm import random

HISTORY = 10
EVENLY = 0.001  # of all draws


class ImportanceSampler:
    """Draws t, and learns from the losses.

    losses, float32 [T, 10], are all that it knows: the latest of each t, nan where there are fewer.
    """

    def __init__(self, T: int):
        self.losses = np.full((T, HISTORY), np.nan, np.float32)

    def probabilities(self) -> np.ndarray:
        """p_t, float64 [T]."""
        T = len(self.losses)
        if np.isnan(self.losses).any():
            return np.full(T, 1 / T)
        p = np.sqrt((self.losses.astype(np.float64) ** 2).mean(axis=1))
        return (1 - EVENLY) * p / p.sum() + EVENLY / T

    def draw(self, N: int, seed: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        """t int64 [N] and the weights of their losses, 1 / (T p_t), float32 [N]."""
        p = self.probabilities()
        high, low = random.bits(2 * N, seed, random.TIMESTEP, step).astype(np.float64).reshape(2, N)
        uniform = (high + low * 2.0**-32) * 2.0**-32
        # The t at which the sum of the probabilities passes the number.
        t = np.searchsorted(np.cumsum(p) / p.sum(), uniform, side="right")
        t = np.minimum(t, len(p) - 1)  # which rounding could pass
        return t, (1 / (len(p) * p[t])).astype(np.float32)

    def update(self, t: np.ndarray, losses: np.ndarray) -> None:
        """Remember the losses [N], not weighed, of these t [N]."""
        for one, loss in zip(t.tolist(), losses.tolist(), strict=True):
            self.losses[one] = np.append(self.losses[one, 1:], np.float32(loss))
