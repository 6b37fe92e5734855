"""How the timesteps of a training step are drawn: by their noise, or from numbers in [0, 1)."""

from statistics import NormalDist
from typing import Any

import numpy as np

from minddpm import random
from minddpm.diffusion.schedules import half_log_snr

# Of log SNR = log(ac / (1 - ac)): 0 is as much noise as image, and 95% lie within 4.8 of it.
# Below, digits have no shape yet; above, all that is left is to remove faint noise.
LOG_SNR = NormalDist(mu=0.0, sigma=2.4)


def draw_by_log_snr(alphas_cumprod: Any, N: int, seed: int, step: int) -> np.ndarray:
    """Return t int64 [N] whose log SNR is normal: of each number drawn, the nearest timestep.

    Drawn uniformly, t dwells where the schedule happens to dwell. Losses are not divided by the
    probability of their t, on purpose: the sum of L_simple over t gives each t the same weight, and
    this one gives most to the noise in between, where a digit takes shape.
    Source: Karras et al. 2022, table 1 (arXiv 2206.00364); as a weight of the bound's terms:
    Kingma and Gao 2023, section 3 (arXiv 2303.00848).
    """
    log_snr = 2 * half_log_snr(alphas_cumprod)  # falls as t grows
    between = (log_snr[1:] + log_snr[:-1]) / 2
    uniform = (random.bits(N, seed, random.TIMESTEP, step) + 0.5) * 2.0**-32
    wanted = np.array([LOG_SNR.inv_cdf(u) for u in uniform])
    return np.searchsorted(-between, -wanted)


def independent(N: int, seed: int, step: int) -> np.ndarray:
    """Return N independent uniform numbers in [0, 1), float64, with all of its bits."""
    high, low = random.bits(2 * N, seed, random.TIMESTEP, step).astype(np.float64).reshape(2, N)
    return (high + low * 2.0**-32) * 2.0**-32


def low_discrepancy(N: int, seed: int, step: int) -> np.ndarray:
    """Return N uniform numbers in [0, 1), float64, u_i = (u + i / N) mod 1.

    u is random. Each number is uniform, but together they are even: the mean loss of a batch then
    depends less on which timesteps it happened to draw.
    Source: Kingma et al. 2021, "Variational Diffusion Models", appendix I.1 (arXiv 2107.00630).
    """
    return (independent(1, seed, step) + np.arange(N) / N) % 1.0
