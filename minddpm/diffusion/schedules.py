"""Noise schedules: the betas of the forward process, float64 [T].

Throughout the project t = 0 .. T-1, and t = 0 is the least noisy step: Ho et al. write 1 .. T.
"""

import math
from typing import Any

import numpy as np

from minddpm.errors import InputError

MAX_T = 1_000_000  # every table has T entries


def linear(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """Return betas that rise linearly (Ho et al. 2020, section 4), rescaled by 1000 / T.

    Why rescaled? alphas_cumprod[T-1] is about exp(-sum of betas). With 1e-4 .. 0.02 left as they
    are, the sum shrinks with T, and part of the image survives in x_T: alphas_cumprod[T-1] is
    4e-5 at T = 1000, but .0481 at 300 and .364 at 100. Sampling starts from pure noise, which such
    a model has never seen at t = T-1. Raises InputError where a beta would reach 1.
    """
    scale = 1000 / check_T(T)
    return check_betas(np.linspace(beta_start * scale, beta_end * scale, T, dtype=np.float64))


def cosine(T: int, offset: float = 0.008, max_beta: float = 0.999) -> np.ndarray:
    """Return betas that make alphas_cumprod a squared cosine.

    Nichol and Dhariwal 2021, equation 17:
    alphas_cumprod(t) = f(t) / f(0), f(t) = cos((t/T + offset) / (1 + offset) * pi/2)^2
    beta_t = 1 - alphas_cumprod(t+1) / alphas_cumprod(t), at most max_beta: at the end
    alphas_cumprod reaches 0, and beta = 1 would leave nothing to reverse.
    """
    time = np.arange(check_T(T) + 1, dtype=np.float64) / T
    f = np.cos((time + offset) / (1 + offset) * math.pi / 2) ** 2
    return check_betas(np.minimum(1 - f[1:] / f[:-1], max_beta))


def quadratic(T: int, beta_start: float = 1e-4, beta_end: float = 0.02) -> np.ndarray:
    """Return betas whose square roots rise linearly, with the ends and the scaling of linear().

    The "quad" schedule of Ho et al.'s code; diffusers calls it scaled_linear.
    """
    scale = 1000 / check_T(T)
    ends = check_betas(np.array([beta_start * scale, beta_end * scale]))
    return np.linspace(*np.sqrt(ends), T, dtype=np.float64) ** 2


def log_snr(T: int, first: float = 12.0, last: float = -8.0) -> np.ndarray:
    """Return betas that make log SNR = log(ac / (1 - ac)) fall linearly from `first` to `last`.

    ac_t = 1 / (1 + e^g_t) with g_t = -log SNR, which rises by d = (first - last) / (T - 1), so

        beta_t = 1 - ac_t / ac_{t-1} = (e^g_t - e^g_{t-1}) / (1 + e^g_t) = (1 - e^-d) ac_t e^g_t

    and beta_0 = 1 - ac_0. With T to infinity the bound depends on the two ends alone (Kingma et al.
    2021, "Variational Diffusion Models", equation 18); a straight line gives each doubling of the
    noise the same number of steps. At 12 the noise is a third of a grey level, at -8 L_T is 0.0002
    bits/dim for digits.
    """
    g = -np.linspace(first, last, check_T(T), dtype=np.float64)
    noise = 1 / (1 + np.exp(-g))  # 1 - ac
    d = (first - last) / max(1, T - 1)
    return check_betas(np.append(noise[0], -np.expm1(-d) * noise[1:]))


def zero_terminal_snr(betas: np.ndarray, left: float | None = None) -> np.ndarray:
    """Return betas that leave nothing of the image at T-1.

    sqrt(alphas_cumprod) is shifted so that it ends at 0, and scaled so that it keeps its first
    value. left: alphas_cumprod[T-1]; None: as little as float64 can tell from a beta of 1.
    Source: Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed",
    algorithm 1.
    """
    root = np.sqrt(np.cumprod(1 - check_betas(betas)))
    if len(root) < 2:
        raise InputError("a schedule of one timestep cannot be rescaled: choose more.")
    ac = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
    ac[-1] = ac[-2] * 2.0**-53 if left is None else left
    return check_betas(1 - ac / np.append(1.0, ac[:-1]))


BY_NAME = {"linear": linear, "cosine": cosine, "quadratic": quadratic, "log-snr": log_snr}


def check_betas(betas: np.ndarray) -> np.ndarray:
    """Return betas as float64 [T]. Raises InputError unless all lie strictly between 0 and 1."""
    betas = np.asarray(betas, dtype=np.float64)
    if betas.ndim != 1 or len(betas) == 0:
        raise InputError(f"betas have shape {betas.shape}: give one number for each of T steps.")
    if not ((betas > 0) & (betas < 1)).all():
        raise InputError(
            f"betas lie in {betas.min():.3g} .. {betas.max():.3g}, but each must be between 0 and "
            "1: correct their ends; with the default ones choose T above 20, or a cosine schedule."
        )
    return betas


def check_T(T: int) -> int:  # noqa: N802
    """Return T. Raises InputError unless it is an integer of 1 .. MAX_T."""
    if not isinstance(T, (int, np.integer)) or not 1 <= T <= MAX_T:
        raise InputError(
            f"T = {T} diffusion steps: choose an integer of at least 1, at most {MAX_T:,}."
        )
    return T


def half_log_snr(alphas_cumprod: Any) -> Any:
    """Return lambda = log(alpha / sigma) = log(ac / (1 - ac)) / 2, float64, for a number or table.

    Infinite where nothing is noise (ac = 1) or nothing is left of the image (ac = 0).
    """
    ac = np.asarray(alphas_cumprod, np.float64)
    with np.errstate(divide="ignore"):
        lambda_ = 0.5 * (np.log(ac) - np.log1p(-ac))
    return lambda_ if ac.ndim else float(lambda_)
