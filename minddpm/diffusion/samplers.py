"""From noise to pictures: samplers are generators that yield every step.

    for step in ddim(diffusion, model, (64, 28, 28, 1), steps=50, seed=0):
        step.x, step.pred_x0, step.t

The progress bar, the picture grid and the GIF only consume what is yielded. Each sampler here is
one linear recursion, and differs from the others in its coefficients alone (walk.py).
"""

from collections.abc import Iterator

import numpy as np

from minddpm.backend import Array
from minddpm.diffusion.gaussian import GaussianDiffusion
from minddpm.diffusion.ode import invert, probability_flow, probability_flow_adaptive
from minddpm.diffusion.process import Model
from minddpm.diffusion.walk import Noise, Step, shorten, walk
from minddpm.errors import InputError

__all__ = [
    "Step",
    "ddim",
    "ddpm",
    "dpm_solver",
    "invert",
    "probability_flow",
    "probability_flow_adaptive",
]


def ddpm(
    diffusion: GaussianDiffusion,
    model: Model,
    shape: tuple[int, ...],
    steps: int | None = None,
    *,
    seed: int = 0,
    first: int = 0,
    x_T: Array | None = None,
    noise: Noise | None = None,
    spacing: str = "leading",
    replay: bool = False,
) -> Iterator[Step]:
    """Ancestral sampling (Ho et al. 2020, algorithm 2), over all T steps or `steps` of them.

    x_{t-1} = mean + sigma_t z, z ~ N(0, I), and no noise at t = 0: that step gives the picture
    itself, and noise would only be seen as noise.

    shape [N, H, W, C]; seed gives x_T and all noise, unless x_T or noise(i) are passed in. first:
    where in the seed's streams to begin, so that many pictures can be made in parts.
    replay: the model does the same for all x and t and reads nothing on the host (as a UNet2D in
    eval mode): a GPU may record a step once and repeat it.
    Raises InputError for steps outside 1 .. T.
    """
    short = shorten(diffusion, steps, spacing)
    # mean = coef1 pred_x0 + coef2 x_t (equation 7)
    if short.variance == "learned_range":
        sigma = None
    else:
        sigma = np.sqrt(short.model_variance()[0])
        sigma[0] = 0
    k0, kx, ko = short.posterior_mean_coef1, short.posterior_mean_coef2, np.zeros(short.T)
    return walk(short, model, shape, (k0, kx, ko, sigma), (seed, first), x_T, noise, replay)


def ddim(
    diffusion: GaussianDiffusion,
    model: Model,
    shape: tuple[int, ...],
    steps: int | None = None,
    *,
    eta: float = 0.0,
    clipped_eps: bool = False,
    seed: int = 0,
    first: int = 0,
    x_T: Array | None = None,
    noise: Noise | None = None,
    spacing: str = "leading",
    replay: bool = False,
) -> Iterator[Step]:
    """DDIM (Song et al. 2021, equation 12): the same model, fewer and less noisy steps.

    x_{t-1} = sqrt(ac_{t-1}) pred_x0 + sqrt(1 - ac_{t-1} - sigma^2) eps + sigma z
    sigma = eta sqrt((1 - ac_{t-1}) / (1 - ac_t)) sqrt(1 - ac_t / ac_{t-1})   (equation 16)
    eta = 0: no noise at all, so the same x_T always gives the same picture. eta = 1: DDPM's
    posterior variance.

    clipped_eps: where pred_x0 was clipped, take the eps that fits the clipped picture (as
    improved-diffusion does) rather than the model's own (diffusers' default, and ours).
    """
    if not 0 <= eta <= 1:
        raise InputError(f"eta = {eta}: choose 0 (no noise) .. 1 (as much as DDPM).")
    short = shorten(diffusion, steps, spacing)
    ac, ac_prev = short.alphas_cumprod, short.alphas_cumprod_prev
    sigma = eta * np.sqrt((1 - ac_prev) / (1 - ac)) * np.sqrt(1 - ac / ac_prev)
    direction = 1 - ac_prev - sigma**2
    assert (direction >= 0).all()  # a negative one means a wrong sigma, not something to clamp
    direction = np.sqrt(direction)
    if clipped_eps:
        # eps = (x_t - sqrt(ac) pred_x0) / sqrt(1 - ac), put into the formula above
        kx, ko = direction / np.sqrt(1 - ac), np.zeros(short.T)
        k0 = np.sqrt(ac_prev) - kx * np.sqrt(ac)
    else:
        ex, eo = short.eps_coefficients()
        k0, kx, ko = np.sqrt(ac_prev), direction * ex, direction * eo
    return walk(short, model, shape, (k0, kx, ko, sigma), (seed, first), x_T, noise, replay)


def dpm_solver(
    diffusion: GaussianDiffusion,
    model: Model,
    shape: tuple[int, ...],
    steps: int | None = None,
    *,
    order: str = "2M",
    seed: int = 0,
    first: int = 0,
    x_T: Array | None = None,
    noise: Noise | None = None,
    spacing: str = "leading",
) -> Iterator[Step]:
    """DPM-Solver++ (Lu et al. 2022, "Fast solver for guided sampling"): DDIM of second order.

    In lambda = log(alpha / sigma), alpha = sqrt(ac), sigma = sqrt(1 - ac), the linear part of the
    probability-flow ODE is solved exactly, and of the picture behind the noise as a function of
    lambda DDIM knows the value at the step's beginning; here a second one gives its slope. A step
    from s to t, with h = lambda_t - lambda_s:

        x_t = (sigma_t / sigma_s) x_s + alpha_t (1 - e^-h) D
        1   D = x0_s: DDIM
        2M  D = x0_s + (h / (2 h')) (x0_s - x0_r), r the step before, h' = lambda_s - lambda_r
            (algorithm 2)
        2S  two runs for a step, at s and at a u in between, to which DDIM leads:
            D = x0_s + (h / (2 h')) (x0_u - x0_s), h' = lambda_u - lambda_s    (algorithm 1)

    Of the reverse SDE, whose noise takes away what is wrong with x_s, it is ("SDE-DPM-Solver++"):

        x_t = (sigma_t / sigma_s) e^-h x_s + alpha_t (1 - e^-2h) D + sigma_t sqrt(1 - e^-2h) z
        SDE D as in 2M; with D = x0_s it would be DDPM's own step

    order: a key of ORDERS. steps: runs of the model, so that 2S makes half as many steps; the
    last one, to where there is no noise and lambda is infinite, is always DDIM's. But for SDE, no
    noise is drawn: the same x_T always gives the same picture. spacing: log_snr makes all h alike.
    Raises InputError for another order.
    """
    if order not in ORDERS:
        raise InputError(f"unknown order {order!r} of dpm_solver: choose {', '.join(ORDERS)}.")
    short = shorten(diffusion, steps, spacing)
    *tables, before = ORDERS[order](_Ladder(short))
    return walk(short, model, shape, tuple(tables), (seed, first), x_T, noise, before=before)


class _Ladder:
    """alpha, sigma and lambda of each step's beginning, and (next_) of its end, float64 [T]."""

    def __init__(self, diffusion: GaussianDiffusion):
        ac_prev = diffusion.alphas_cumprod_prev
        self.alpha = diffusion.sqrt_alphas_cumprod
        self.sigma = diffusion.sqrt_one_minus_alphas_cumprod
        self.next_alpha, self.next_sigma = np.sqrt(ac_prev), np.sqrt(1 - ac_prev)
        self.lambda_ = np.log(self.alpha / self.sigma)
        # e^-h, and alpha_t (1 - e^-h), neither of which needs the infinite lambda of the end
        self.decay = self.next_sigma / self.next_alpha * self.alpha / self.sigma
        self.gain = self.next_alpha * (1 - self.decay)
        self.h = np.append(np.inf, np.diff(self.lambda_[::-1])[::-1])  # of t = 0, 1, ...
        self.none = np.zeros(diffusion.T)

    def slope(self) -> np.ndarray:
        """h / (2 h') of 2M; 0 at the first step and at the last one."""
        slope = self.none.copy()
        slope[1:-1] = self.h[1:-1] / (2 * self.h[2:])
        return slope


Tables = tuple[np.ndarray, ...]  # k0, kx, ko, sigma, and the factors of the pred_x0 before


def _first_order(s: _Ladder) -> Tables:
    return s.gain, s.next_sigma / s.sigma, s.none, s.none, s.none


def _multistep(s: _Ladder) -> Tables:
    slope = s.slope()
    return s.gain * (1 + slope), s.next_sigma / s.sigma, s.none, s.none, -s.gain * slope


def _single_step(s: _Ladder) -> Tables:
    """Every second step ends a pair: it begins at u, made by the first of them, DDIM, from s:

    x_u = (sigma_u / sigma_s) x_s + gain_u x0_s, so that
    x_t = (sigma_t / sigma_s) x_s + G D = (sigma_t / sigma_u) (x_u - gain_u x0_s) + G D
    """
    k0, kx, ko, sigma, before = (table.copy() for table in _first_order(s))
    for t in range(len(k0) - 2, 0, -2):  # u; s is t + 1
        h = s.h[t] + s.h[t + 1]
        G = s.next_alpha[t] * (1 - s.decay[t] * s.decay[t + 1])
        slope = h / (2 * s.h[t + 1])
        k0[t], before[t] = G * slope, G * (1 - slope) - kx[t] * s.gain[t + 1]
    return k0, kx, ko, sigma, before


def _multistep_sde(s: _Ladder) -> Tables:
    slope, gone = s.slope(), 1 - s.decay**2
    gain, sigma = s.next_alpha * gone, s.next_sigma * np.sqrt(gone)
    kx = s.next_sigma / s.sigma * s.decay
    return gain * (1 + slope), kx, s.none, sigma, -gain * slope


ORDERS = {
    "1": _first_order, "2M": _multistep, "2S": _single_step, "SDE": _multistep_sde
}  # fmt: skip
