"""Importance sampling of t: draw t with a large loss more often (Nichol, Dhariwal 2021, sec. 3.3).

The terms L_t of L_vlb differ by orders of magnitude, so with uniformly drawn t the gradient of
L_vlb is mostly noise. Drawing t with probability p_t and weighting its loss by 1 / (T p_t) does not
change the expectation of the gradient, and its variance is smallest for

    p_t proportional to sqrt(E[L_t^2])    (equation 18)

E[L_t^2] is estimated by the mean over the latest ten losses at t: a single loss depends as much on
its image and noise as on t, and older losses belong to an outdated model. Until every t has ten
losses, t is drawn uniformly. Afterwards one draw in a thousand is uniform, so that no t is ignored.
"""

import numpy as np

HISTORY = 10
UNIFORM_SHARE = 0.001  # share of the draws that are uniform


class ImportanceSampler:
    """Draws t with probabilities that follow the losses of earlier steps.

    losses: the state, float32 [T, 10]: the latest ten losses of each t; nan until there are ten.
    """

    def __init__(self, T: int):
        self.losses = np.full((T, HISTORY), np.nan, np.float32)

    def probabilities(self) -> np.ndarray:
        """Return p_t, float64 [T]."""
        T = len(self.losses)
        if np.isnan(self.losses).any():
            return np.full(T, 1 / T)
        p = np.sqrt((self.losses.astype(np.float64) ** 2).mean(axis=1))
        return (1 - UNIFORM_SHARE) * p / p.sum() + UNIFORM_SHARE / T

    def draw(self, uniform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return t int64 [N] and the weights of their losses, 1 / (T p_t), float32 [N].

        uniform: N random numbers in [0, 1), as diffusion/draw_t.py has them.
        """
        p = self.probabilities()
        # Inverse transform sampling: the first t whose cumulative probability exceeds `uniform`.
        t = np.searchsorted(np.cumsum(p) / p.sum(), uniform, side="right")
        t = np.minimum(t, len(p) - 1)  # rounding could yield T, one above the largest t
        return t, (1 / (len(p) * p[t])).astype(np.float32)

    def update(self, t: np.ndarray, losses: np.ndarray) -> None:
        """Store the unweighted losses [N] of timesteps t [N]."""
        for t_i, loss in zip(t.tolist(), losses.tolist(), strict=True):
            self.losses[t_i] = np.append(self.losses[t_i, 1:], np.float32(loss))
