"""Consistency: a model that sees the same image in x_t at every t of a path (Song et al. 2023).

The paths are those of the probability-flow ODE. A model whose pred_x0 at t = 0 is right, and equal
along each path, maps noise to an image in one step. Geng et al. 2024, "Consistency Models Made
Easy" (ECT), begin with a trained diffusion model, for which r is 0, and let r approach t.
In comments alpha = sqrt(ac) and sigma = sqrt(1 - ac): x_t = alpha_t x0 + sigma_t eps.
"""

import numpy as np

from minddpm import backend
from minddpm.backend import Array
from minddpm.diffusion.distillation import column, levels
from minddpm.diffusion.forward import Model
from minddpm.diffusion.reverse import ReverseProcess


def less_noise(alphas_cumprod: np.ndarray, t: np.ndarray, stage: int) -> np.ndarray:
    """Return r int64 [N], with -1 <= r < t, at which the image of x_t is looked up; -1: x0 itself.

    With s = sigma / alpha, the noise beside an image of unchanged brightness:
        s_r = s_t max(0, 1 - n(s_t) / 2^(stage + 1))   with n(s) = 1 + 8 / (1 + e^s)
    stage 0, 1, ...: each halves the distance. n is larger at small t, where r = -1 stays longer.
    Source: Geng et al. 2024, section 3.3 and appendix A, with q = 2, k = 8, b = 1.
    """
    s = np.sqrt(1 / alphas_cumprod - 1)  # increases with t
    n = 1 + 4 * (1 - np.tanh(s[t] / 2))  # 2 / (1 + e^s) = 1 - tanh(s / 2), which cannot overflow
    s_r = s[t] * np.maximum(1 - n / 2 ** (stage + 1), 0)
    return np.minimum(np.searchsorted(s, s_r, side="right") - 1, t - 1)


def consistency_target(
    d: ReverseProcess, model: Model, x_t: Array, x0: Array, noise: Array, t: np.ndarray,
    r: np.ndarray,
) -> tuple[Array, Array]:  # fmt: skip
    """Return (x0, eps), the prediction at x_t that sees the image which the model sees at x_r.

    x_r = alpha_r x0 + sigma_r noise: the noise is that of x_t, so that x_r lies nearly on its path.
    t, r: int [N] on the host; where r = -1 the image is x0.
    """
    (alpha_t, sigma_t), (alpha_r, sigma_r) = levels(d, t), levels(d, r)
    x_r = column(alpha_r, x0) * x0 + column(sigma_r, x0) * noise
    at = np.maximum(r, 0)
    seen = d.limit_x0(d.predict_x0(x_r, at, d.model_output(model, x_r, at)))
    target = backend.xp.where(column(r < 0, x0) > 0, x0, seen)
    eps = column(1 / sigma_t, x_t) * (x_t - column(alpha_t, x_t) * target)
    return target, eps
