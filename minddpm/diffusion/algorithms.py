"""Algorithms 1 and 2 of Ho et al. 2020, "Denoising Diffusion Probabilistic Models", literally.

All of diffusion is here, on arrays and a model that is any callable (x_t, t) -> prediction of the
noise. t is 0-based: the paper's t = 1 .. T is 0 .. T-1. The rest of the project implements the same
algorithms faster and more generally, and tests check that the results agree:

    training_loss   Trainer._backward (training/ddpm.py), with the loss of diffusion/losses.py
    sample          ddpm (diffusion/sampling/ddpm.py)
"""

from collections.abc import Callable, Iterator
from math import sqrt

import numpy as np

from minddpm import backend, random
from minddpm.autodiff import Tensor
from minddpm.backend import Array


def training_loss(
    model: Callable[[Array, Array], Tensor], x0: Array, betas: np.ndarray, seed: int, step: int
) -> Tensor:
    """Return the loss of Algorithm 1, a 0-d Tensor; call .backward() on it.

    x0: the images drawn from the data (line 2), [N, H, W, C] in [-1, 1]. seed and step determine
    t and eps.
    """
    xp, N, T = backend.xp, len(x0), len(betas)
    alphas_cumprod = np.cumprod(1 - betas)
    t = random.integers(T, N, seed, random.TIMESTEP, step)  # line 3: t ~ Uniform(1 .. T)
    eps = random.normal(x0.shape, seed, random.NOISE, step)  # line 4: eps ~ N(0, I)
    a = xp.asarray(np.sqrt(alphas_cumprod[t]), "float32").reshape(N, 1, 1, 1)
    b = xp.asarray(np.sqrt(1 - alphas_cumprod[t]), "float32").reshape(N, 1, 1, 1)
    x_t = a * x0 + b * eps
    # line 5: the gradient of || eps - eps_theta(x_t, t) ||^2, here a mean over pixels and images
    squares = (model(x_t, xp.asarray(t)) - eps) ** 2
    return squares.mean()


def sample(
    model: Callable[[Array, Array], Array], shape: tuple[int, ...], betas: np.ndarray, seed: int
) -> Iterator[Array]:
    """Yield x_{t-1} for t = T .. 1 by Algorithm 2, [N, H, W, C]; the last is the sampled images.

    sigma_t^2 is the posterior variance of equation 7, the "fixed_small" choice of section 3.2.
    """
    alphas = 1 - betas
    alphas_cumprod = np.cumprod(alphas)
    alphas_cumprod_prev = np.append(1.0, alphas_cumprod[:-1])
    sigmas = np.sqrt(betas * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod))
    T, tables = len(betas), np.stack([betas, alphas, alphas_cumprod, sigmas], axis=1).tolist()

    x = random.normal(shape, seed, random.X_T)  # line 1: x_T ~ N(0, I)
    for t in reversed(range(T)):  # line 2
        z = random.normal(shape, seed, random.SAMPLE, T - 1 - t) if t > 0 else 0  # line 3
        beta, alpha, ac, sigma = tables[t]
        eps = model(x, backend.xp.full(shape[0], t))
        x = (x - beta / sqrt(1 - ac) * eps) / sqrt(alpha) + sigma * z  # line 4
        yield x
