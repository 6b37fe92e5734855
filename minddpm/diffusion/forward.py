"""The forward process q: an image becomes noise in T steps whose every property is known.

Ho, Jain, Abbeel: "Denoising Diffusion Probabilistic Models" (2020), whose equations are numbered
below. Functions and tables are named as in openai/improved-diffusion. The lecture slides that this
project started from write beta-bar for alphas_cumprod and swap its two roles in places; the
formulas here are the paper's. In comments ac is short for alphas_cumprod.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from minddpm import backend, random
from minddpm.backend import Array
from minddpm.diffusion.schedules import check_betas
from minddpm.errors import InputError

Model = Callable[..., Any]  # (x_t, t) -> array or Tensor


class Gaussian(NamedTuple):
    """A normal distribution of each pixel; all [N, H, W, C] or broadcastable to it."""

    mean: Array
    variance: Array
    log_variance: Array


class ForwardProcess:
    """q for given betas: float64 [T], each in (0, 1)."""

    def __init__(self, betas: np.ndarray):
        self.betas = check_betas(betas)
        self.T = len(self.betas)

        # Tables, float64 [T]; a value is cast to the type of the image where it is used.
        self.alphas = 1 - self.betas
        self.alphas_cumprod = np.cumprod(self.alphas)
        self.alphas_cumprod_prev = np.append(1.0, self.alphas_cumprod[:-1])  # [0] = 1: no noise yet
        self.sqrt_alphas_cumprod = np.sqrt(self.alphas_cumprod)
        self.sqrt_one_minus_alphas_cumprod = np.sqrt(1 - self.alphas_cumprod)

        # q(x_{t-1} | x_t, x_0), equations 6 and 7:
        # variance = beta_t (1 - ac_{t-1}) / (1 - ac_t)
        # mean = coef1 x0 + coef2 x_t, coef1 = sqrt(ac_{t-1}) beta_t / (1 - ac_t),
        #                              coef2 = sqrt(alpha_t) (1 - ac_{t-1}) / (1 - ac_t)
        rest = 1 - self.alphas_cumprod
        self.posterior_variance = self.betas * (1 - self.alphas_cumprod_prev) / rest
        self.posterior_mean_coef1 = np.sqrt(self.alphas_cumprod_prev) * self.betas / rest
        self.posterior_mean_coef2 = np.sqrt(self.alphas) * (1 - self.alphas_cumprod_prev) / rest
        # At t = 0 the posterior is certain: given x_0 there is nothing left to draw, its variance
        # is 0 and its logarithm -infinity. The step at t = 0 adds no noise, so only the bound uses
        # the logarithm there; it takes the value at t = 1.
        first = self.posterior_variance[1] if self.T > 1 else self.betas[0]
        self.posterior_log_variance_clipped = np.log(np.append(first, self.posterior_variance[1:]))
        # fixed_large is beta_t, but at t = 0 also the posterior's value at t = 1 (Ho et al.'s
        # code): the decoder then has the same width for either variance.
        self.fixed_large_variance = np.append(first, self.betas[1:])

    # --- noising ---------------------------------------------------------------------------------

    def q_step(self, x_prev: Array, t: Any, noise: Array) -> Array:
        """Take one step of q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t); equation 2.

        x_prev, noise [N, H, W, C], t int [N] -> x_t. The slides' sqrt(beta_t) x_{t-1} is a slip:
        the signal shrinks by sqrt(1 - beta_t), so that the variance stays 1.
        """
        return self._mix(x_prev, t, noise, np.sqrt(self.alphas), np.sqrt(self.betas))

    def q_sample(self, x0: Array, t: Any, noise: Array) -> Array:
        """Jump to t: x_t = sqrt(ac_t) x0 + sqrt(1 - ac_t) noise; equation 4.

        x0, noise [N, H, W, C], t int [N] -> x_t. This is a sum of independent normals: each step
        multiplies the variance so far by alpha_t and adds beta_t = 1 - alpha_t.
        """
        a, b = self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod
        return self._mix(x0, t, noise, a, b)

    def q_sample_normal(
        self, x0: Array, t: Any, seed: int, purpose: int, step: int = 0, first: int = 0
    ) -> tuple[Array, Array]:
        """Return (x_t, noise): q_sample with noise = random.normal(x0.shape, seed, purpose, ...).

        The numbers are those of the two calls, computed in one pass over the images.
        """
        random.check_counter(purpose, step)
        x0 = floating(x0)
        tables = self.sqrt_alphas_cumprod, self.sqrt_one_minus_alphas_cumprod
        a, b = (self._at(table, self.check_t(t, len(x0)), x0.dtype) for table in tables)
        stream = random.Stream(random.check_seed(seed), purpose, step, first)
        return backend.kernels.q_sample_normal(x0, a, b, *stream)

    def q_mean_variance(self, x0: Array, t: Any) -> Gaussian:
        """Return q(x_t | x_0) = N(sqrt(ac_t) x0, 1 - ac_t), equation 4."""
        x0 = backend.xp.asarray(x0)
        t = self.check_t(t, len(x0))
        return Gaussian(
            self.table(self.sqrt_alphas_cumprod, t, x0) * x0,
            self.table(1 - self.alphas_cumprod, t, x0),
            self.table(np.log(1 - self.alphas_cumprod), t, x0),
        )

    def q_posterior_mean_variance(self, x0: Array, x_t: Array, t: Any) -> Gaussian:
        """Return q(x_{t-1} | x_t, x_0), the reverse step if x_0 were known; equations 6 and 7."""
        x0, x_t = backend.xp.asarray(x0), backend.xp.asarray(x_t)
        t = self.check_t(t, len(x_t))
        mean = (
            self.table(self.posterior_mean_coef1, t, x_t) * x0
            + self.table(self.posterior_mean_coef2, t, x_t) * x_t
        )
        return Gaussian(
            mean,
            self.table(self.posterior_variance, t, x_t),
            self.table(self.posterior_log_variance_clipped, t, x_t),
        )

    # --- helpers ---------------------------------------------------------------------------------

    def check_t(self, t: Any, N: int) -> Array:
        """Return t on the host, int64 [N]; raise InputError unless it is 0 .. T-1 and [N].

        In a recorded training step on a device t stays there, and its values are not checked.
        """
        readable = backend.is_readable(t)
        t = np.atleast_1d(backend.to_numpy(t)) if readable else t
        if t.dtype.kind not in "iu" or t.shape != (N,):
            raise InputError(f"t is {t.dtype} {t.shape}: give {N} integers, one for each image.")
        if readable and t.size and (t.min() < 0 or t.max() >= self.T):
            raise InputError(f"t reaches from {t.min()} to {t.max()}: choose 0 .. {self.T - 1}.")
        return t.astype(np.int64, copy=False)

    def table(self, table: np.ndarray, t: Array, like: Array) -> Array:
        """Return table[t] in a shape that multiplies images: float64 [T] -> [N, 1, 1, 1]."""
        return self._at(table, t, like.dtype).reshape(-1, *(1,) * (like.ndim - 1))

    def _mix(self, x: Array, t: Any, noise: Array, a: np.ndarray, b: np.ndarray) -> Array:
        """Return a[t] x + b[t] noise."""
        x, noise = floating(x), floating(noise)
        t = self.check_t(t, len(x))
        check_noise(noise, x)
        return backend.kernels.q_sample(x, noise, self._at(a, t, x.dtype), self._at(b, t, x.dtype))

    def _at(self, table: np.ndarray, t: Array, dtype: Any) -> Array:
        """Return table[t] on the backend: float64 [T] -> [N]."""
        return backend.kernels.take(backend.xp, table, t, np.dtype(dtype).name)


def floating(x: Any) -> Array:
    """Return x as an array of the backend; raise InputError unless it is floating-point."""
    x = backend.xp.asarray(x)
    if x.dtype.kind != "f":
        raise InputError(
            f"images or noise of {x.dtype}: give floating-point numbers, pixels in [-1, 1]."
        )
    return x


def check_noise(noise: Array, x: Array) -> None:
    """Raise InputError unless the noise has the shape of the images."""
    if noise.shape != x.shape:
        raise InputError(f"noise of shape {noise.shape} for images {x.shape}: make it equal.")
