"""Progressive distillation: what a student has to predict so that its step equals two of a teacher.

Salimans and Ho 2022, "Progressive Distillation for Fast Sampling of Diffusion Models", algorithm 2.
In comments alpha = sqrt(ac) and sigma = sqrt(1 - ac): x_t = alpha_t x0 + sigma_t eps.
"""

import numpy as np

from minddpm import backend
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.diffusion.reverse import ReverseProcess
from minddpm.diffusion.sampling.steps import timesteps


def two_steps(T: int, steps: int, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (middle, end): where two teacher's steps lead that start where a student's does.

    steps: of the student; t: int [N], some of its timesteps(T, steps, "trailing"). The teacher has
    twice as many. An end of -1 is the clean image.
    """
    visited = np.append(-1, timesteps(T, 2 * steps, "trailing"))
    start = np.searchsorted(visited, t)
    return visited[start - 1], visited[start - 2]


def distillation_target(
    d: ReverseProcess, teacher: Model, x_t: Array, t: np.ndarray, middle: np.ndarray,
    end: np.ndarray,
) -> tuple[Array, Array]:  # fmt: skip
    """Return (x0, eps), the prediction at x_t whose DDIM step to `end` is two steps of the teacher.

    d: the teacher's process; t, middle, end: int [N] on the host, falling.
    A DDIM step goes from x_t = alpha_t x0 + sigma_t eps to x_end = alpha_end x0 + sigma_end eps:
    the same x0 and eps in other proportions. Without eps = (x_t - alpha_t x0) / sigma_t that is
        x_end - r x_t = (alpha_end - r alpha_t) x0   with r = sigma_end / sigma_t
    and x_end is known: it is where the teacher arrives.
    """
    x_end = ddim_step(d, teacher, ddim_step(d, teacher, x_t, t, middle), middle, end)
    (alpha_t, sigma_t), (alpha_end, sigma_end) = levels(d, t), levels(d, end)
    r = sigma_end / sigma_t
    x0 = column(1 / (alpha_end - r * alpha_t), x_t) * (x_end - column(r, x_t) * x_t)
    eps = column(1 / sigma_t, x_t) * (x_t - column(alpha_t, x_t) * x0)
    return x0, eps


def ddim_step(d: ReverseProcess, model: Model, x_t: Array, t: np.ndarray, to: np.ndarray) -> Array:
    """Take the step of samplers.ddim (eta = 0) from t [N] to `to` [N], a pair for each image."""
    output = d.model_output(model, x_t, t)
    x0, eps = d.limit_x0(d.predict_x0(x_t, t, output)), d.predict_eps(x_t, t, output)
    alpha, sigma = levels(d, to)
    return column(alpha, x_t) * x0 + column(sigma, x_t) * eps


def levels(d: ReverseProcess, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return alpha and sigma at t, float64 [N]: 1 and 0 at t = -1, the last entry."""
    ac = np.append(d.alphas_cumprod, 1.0)[t]
    return np.sqrt(ac), np.sqrt(1 - ac)


def column(values: np.ndarray, like: Array) -> Array:
    """Return one number for each image, in a shape that multiplies images: [N] -> [N, 1, 1, 1]."""
    column = backend.xp.asarray(values.astype(np.dtype(like.dtype)))
    return column.reshape(-1, *(1,) * (like.ndim - 1))
