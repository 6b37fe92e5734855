"""Models whose samples are known, and what else the tests of the samplers share.

For data N(m, s^2), x_t = sqrt(ac) x0 + sqrt(1 - ac) eps is N(sqrt(ac) m, V) with
V = ac s^2 + 1 - ac, and eps and x_t are jointly normal with covariance sqrt(1 - ac). The best guess
of the noise, which the loss trains a model to return, is therefore

    E[eps | x_t] = sqrt(1 - ac) / V (x_t - sqrt(ac) m).
"""

import math

import numpy as np
import pytest

from minddpm import GaussianDiffusion, backend, samplers
from minddpm.diffusion.schedules import cosine

SHAPE = (2, 8, 8, 1)
BOTH = pytest.mark.parametrize("sampler", [samplers.ddpm, samplers.ddim])


def alphas_cumprod(betas):
    """Return the cumulative products of 1 - beta, as a plain loop."""
    left, result = 1.0, []
    for beta in betas:
        left *= 1 - beta
        result.append(left)
    return result


def perfect_model(betas, m, s):
    """Return the model (x_t, t) -> E[eps | x_t] for data N(m, s^2)."""
    left = alphas_cumprod(betas)

    def model(x, t):
        ac = backend.xp.asarray(np.array(left, np.float32))[t].reshape(-1, 1, 1, 1)
        return (1 - ac) ** 0.5 / (ac * s**2 + 1 - ac) * (x - ac**0.5 * m)

    return model


def rough_model(x, t):
    """Return an imperfect output: it depends on x and t, and its pred_x0 leaves [-1, 1]."""
    return 2 * backend.xp.sin(3 * x) + 0.01 * t.astype("float32").reshape(-1, 1, 1, 1)


def rough_model_with_variance(x, t):
    """Return rough_model's output and a variance output, which also leaves [-1, 1]."""
    v = 1.5 * backend.xp.cos(2 * x)
    return backend.xp.concatenate([rough_model(x, t), v], axis=-1)


def process(prediction="epsilon", variance="fixed_small", clip=False, betas=None):
    """Return a diffusion process, of the cosine schedule with T = 12 unless betas are given."""
    betas = cosine(12) if betas is None else betas
    return GaussianDiffusion(betas, prediction, variance, clip_x0=clip)


def noises(count, shape=SHAPE, seed=3):
    """Return `count` float32 arrays of standard normal numbers on the device."""
    rng = np.random.default_rng(seed)
    return [backend.xp.asarray(z) for z in rng.standard_normal((count, *shape)).astype("float32")]


def last(steps):
    """Return the last x of a sampler as a NumPy array."""
    *_, step = steps
    return backend.to_numpy(step.x)


def predicted_x0_and_eps(prediction, x, output, ac):
    """Return x0 and eps of x_t = sqrt(ac) x0 + sqrt(1 - ac) eps as the output predicts them."""
    a, b = math.sqrt(ac), math.sqrt(1 - ac)
    if prediction == "epsilon":
        return (x - b * output) / a, output
    if prediction == "x0":
        return output, (x - a * output) / b
    return a * x - b * output, b * x + a * output


def check_moments(x, mean, sd, slack=0.0):
    """Check the mean and the standard deviation within 5 standard errors, plus slack."""
    x = backend.to_numpy(x).astype(np.float64)
    assert abs(x.mean() - mean) < 5 * sd / math.sqrt(x.size) + slack
    assert abs(x.std() - sd) < 5 * sd / math.sqrt(2 * x.size) + slack


def check_close(x, expected, tolerance=1e-5):
    """Check that two arrays are equal up to float32 rounding, relative to the largest entry."""
    x, expected = backend.to_numpy(x), backend.to_numpy(expected)
    np.testing.assert_allclose(x, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max()))
