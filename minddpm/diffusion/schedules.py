"""Noise schedules: the betas of the forward process, float64 [T], and which steps to keep of them.

Throughout the project t = 0 .. T-1, and t = 0 is the least noisy step: Ho et al. write 1 .. T.
"""

import math

import numpy as np

from minddpm.errors import InputError


def linear(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """betas rising in a straight line (Ho et al. 2020, section 4), rescaled by 1000 / T.

    Why rescaled? alphas_cumprod[T-1] is about exp(-sum of betas). With 1e-4 .. 0.02 left as they
    are, the sum shrinks with T, and x_T keeps a share of the picture: alphas_cumprod[T-1] is
    4e-5 at T = 1000, but .0481 at 300 and .364 at 100. Sampling starts from pure noise, and would
    start from something that the model never saw. Raises InputError where a beta would reach 1.
    """
    scale = 1000 / _check_steps(T)
    return check_betas(np.linspace(beta_start * scale, beta_end * scale, T, dtype=np.float64))


def cosine(T: int, offset: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
    """betas from a squared cosine for alphas_cumprod (Nichol and Dhariwal 2021, equation 17).

    alphas_cumprod(t) = f(t) / f(0), f(t) = cos((t/T + offset) / (1 + offset) * pi/2)^2
    beta_t = 1 - alphas_cumprod(t+1) / alphas_cumprod(t), at most max_beta: at the end
    alphas_cumprod reaches 0, and beta = 1 would leave nothing to reverse.
    """
    time = np.arange(_check_steps(T) + 1, dtype=np.float64) / T
    f = np.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    return check_betas(np.minimum(1 - f[1:] / f[:-1], max_beta))


def quadratic(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """betas whose square roots rise in a straight line, with the ends and the scaling of linear.

    The "quad" schedule of Ho et al.'s code; diffusers calls it scaled_linear.
    """
    scale = 1000 / _check_steps(T)
    ends = check_betas(np.array([beta_start * scale, beta_end * scale]))
    return np.linspace(*np.sqrt(ends), T, dtype=np.float64) ** 2


BY_NAME = {"linear": linear, "cosine": cosine, "quadratic": quadratic}


def check_betas(betas: np.ndarray) -> np.ndarray:
    """betas as float64 [T]. Raises InputError unless all lie strictly between 0 and 1."""
    betas = np.asarray(betas, dtype=np.float64)
    if betas.ndim != 1 or len(betas) == 0:
        raise InputError(f"betas have shape {betas.shape}: give one number for each of T steps.")
    if not ((betas > 0) & (betas < 1)).all():
        raise InputError(
            f"betas lie in {betas.min():.3g} .. {betas.max():.3g}, but each must be between 0 and "
            "1: correct their ends; with the default ones choose T above 20, or a cosine schedule."
        )
    return betas


def timesteps(T: int, steps: int, spacing: str = "leading") -> np.ndarray:
    """`steps` of the T timesteps, rising int64 [steps], for sampling in fewer steps.

    leading   0, s, 2s, ... with s = T // steps: diffusers' default. It may begin far below T-1,
              where x_T is not yet pure noise: at t = 500 for 501 steps of 1000
    linspace  rounded even steps from 0 to T-1: improved-diffusion's choice, and our commands'
              but for DPM-Solver 2M and SDE, which have log_snr_timesteps
    trailing  even steps back from T-1: starts where x_T really is pure noise (Lin et al. 2024)
    Raises InputError unless 1 <= steps <= T.
    """
    if not isinstance(steps, (int, np.integer)) or not 1 <= steps <= _check_steps(T):
        raise InputError(f"{steps} sampling steps of a model with T = {T}: choose 1 .. {T}.")
    if spacing == "leading":
        return np.arange(steps, dtype=np.int64) * (T // steps)
    if spacing == "linspace":
        return np.linspace(0, T - 1, steps).round().astype(np.int64)
    if spacing == "trailing":
        return np.round(np.arange(T, 0, -T / steps)).astype(np.int64)[:steps][::-1] - 1
    raise InputError(
        f"unknown spacing {spacing!r}: choose leading, linspace or trailing; samplers have log_snr."
    )


NOTHING_BUT_NOISE = -5.1  # lambda below which x_t tells nothing: DPM-Solver's, for cosine schedules


def log_snr_timesteps(alphas_cumprod: np.ndarray, steps: int) -> np.ndarray:
    """`steps` of the T timesteps, rising int64 [steps], evenly apart in lambda.

    lambda_t = log(alpha_t / sigma_t) = log(ac / (1 - ac)) / 2, half the logarithm of the
    signal-to-noise ratio. In it DPM-Solver's steps are equally long; of 20 steps evenly in t, one
    alone would be 30% of the way. From lambda_0 down to NOTHING_BUT_NOISE or lambda_{T-1}, each
    time the nearest t that is free; T - 1, where all noise begins, is the last.
    Raises InputError unless 1 <= steps <= T.
    Source: Lu et al. 2022, "DPM-Solver", where it is called uniform logSNR.
    """
    T = len(alphas_cumprod)
    timesteps(T, steps)  # refuses a wrong number
    ac = np.asarray(alphas_cumprod, np.float64)
    with np.errstate(divide="ignore"):  # of a schedule that ends without any signal
        lambda_ = 0.5 * (np.log(ac) - np.log1p(-ac))
    wanted = np.linspace(max(lambda_[-1], NOTHING_BUT_NOISE), lambda_[0], steps)[::-1]
    kept = np.abs(lambda_ - wanted[:, None]).argmin(axis=1)
    kept[-1] = T - 1
    for i in range(1, steps):  # upwards no t twice, then downwards none beyond its end
        kept[i] = max(kept[i], kept[i - 1] + 1)
    return np.minimum(kept, np.arange(T - steps, T)).astype(np.int64)


def _check_steps(T: int) -> int:
    if not isinstance(T, (int, np.integer)) or T < 1:
        raise InputError(f"T = {T} diffusion steps: choose an integer of at least 1.")
    return T
