"""Consistency: where a target is looked up, what it is, and the sampler of a perfect model."""

import math

import numpy as np
import pytest

from minddpm import GaussianDiffusion, backend, samplers
from minddpm.diffusion.consistency import consistency_target, less_noise
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.diffusion.schedules import cosine, linear
from refusals import refused

MEAN, VARIANCE = 0.3, 0.04  # of the pixels of the data, which are Gaussian


def exact_model(d):
    """Return v of the exact consistency function of Gaussian data.

    The probability-flow ODE keeps the share of each deviation in the standard deviation of x_t.
    """

    def model(x, t):
        ac = backend.xp.asarray(d.alphas_cumprod)[t].reshape(-1, 1, 1, 1)
        x0 = MEAN + np.sqrt(VARIANCE / (ac * VARIANCE + 1 - ac)) * (x - np.sqrt(ac) * MEAN)
        return (np.sqrt(ac) * x - x0) / np.sqrt(1 - ac)

    return model


def images(count):
    """Return this many different batches of noise."""
    rng = np.random.default_rng(0)
    xp = backend.xp
    return [xp.asarray(rng.standard_normal((3, 4, 4, 1)).astype("float32")) for _ in range(count)]


@pytest.mark.parametrize("schedule", [linear, cosine])
@pytest.mark.parametrize("stage", [0, 1, 5])
def test_where_a_target_is_looked_up(schedule, stage):
    ac = GaussianDiffusion(schedule(1000)).alphas_cumprod
    r = less_noise(ac, np.arange(1000), stage)
    noise = [math.sqrt((1 - a) / a) for a in ac]
    for t in range(1000):
        n = 1 + 8 / (1 + math.exp(min(noise[t], 700)))
        wanted = noise[t] * max(1 - n / 2 ** (stage + 1), 0)
        below = [i for i in range(t) if noise[i] <= wanted]
        assert r[t] == (below[-1] if below else -1)
    assert (less_noise(ac, np.arange(1000), stage + 1) >= r).all()


@pytest.mark.parametrize("prediction", ["v", "epsilon"])
def test_without_noise_the_target_is_the_image(any_backend, prediction):
    d = GaussianDiffusion(cosine(40), prediction, clip_x0=False)
    x0, noise = images(2)
    t, r = np.array([3, 20, 39]), np.array([-1, 11, -1])
    x_t = d.q_sample(x0, t, noise)
    target, eps = consistency_target(d, exact_model(d), x_t, x0, noise, t, r)
    host = backend.to_numpy
    np.testing.assert_array_equal(host(target)[[0, 2]], host(x0)[[0, 2]])
    assert (host(target)[1] != host(x0)[1]).any()
    np.testing.assert_allclose(host(d.q_sample(target, t, eps)), host(x_t), atol=1e-5)


@pytest.mark.parametrize("t", [400, 1500, 3000])
def test_an_exact_model_is_its_own_target(t):
    """On average over x0 and noise, up to the square of the distance between t and r.

    The model is linear, so that its average is its output for the averages of x0 and noise.
    """
    d = GaussianDiffusion(cosine(4000), "v", clip_x0=False)
    ac = d.alphas_cumprod[t]
    x_t = np.random.default_rng(0).standard_normal((1, 4, 4, 1))
    deviation = (x_t - np.sqrt(ac) * MEAN) / (ac * VARIANCE + 1 - ac)
    x0, noise = MEAN + np.sqrt(ac) * VARIANCE * deviation, np.sqrt(1 - ac) * deviation
    seen = d.predict_x0(x_t, np.array([t]), exact_model(d)(x_t, np.array([t])))
    errors = []
    for distance in (16, 8):
        target, _ = consistency_target(
            d, exact_model(d), x_t, x0, noise, np.array([t]), np.array([t - distance])
        )
        errors.append(np.abs(target - seen).max())
    assert errors[0] < 1e-3
    assert 3.5 < errors[0] / errors[1] < 4.5


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_a_perfect_model_samples_the_data(any_backend, steps):
    d = GaussianDiffusion(cosine(1000), "v", clip_x0=False)
    *_, last = samplers.consistency(d, exact_model(d), (64, 8, 8, 1), steps)
    x = backend.to_numpy(last.x)
    assert abs(x.mean() - MEAN) < 0.01
    assert abs(x.std() - math.sqrt(VARIANCE)) < 0.01


def test_its_steps_by_hand():
    """Two steps from x_T with noise z, of a model that is not perfect."""
    d = GaussianDiffusion(cosine(1000), "v", clip_x0=False)
    x_T, z = (x.astype("float64") for x in images(2))
    first, second = samplers.consistency(
        d, lambda x, t: 0.1 * x, x_T.shape, 2, x_T=x_T, noise=lambda _: z
    )
    assert (first.t, second.t) == (998, 665)
    a, s = np.sqrt(d.alphas_cumprod), np.sqrt(1 - d.alphas_cumprod)
    x0 = (a[998] - 0.1 * s[998]) * x_T
    x = a[665] * x0 + s[665] * z
    np.testing.assert_allclose(first.x, x, rtol=1e-6)
    np.testing.assert_allclose(second.x, (a[665] - 0.1 * s[665]) * x, rtol=1e-6)


def test_the_upper_timesteps():
    assert timesteps(1000, 4, "upper").tolist() == [399, 599, 799, 999]
    for T in (1, 2, 5, 40):
        for steps in range(1, T + 1):
            t = timesteps(T, steps, "upper")
            assert len(t) == steps
            assert (np.diff(t) > 0).all()
            assert 0 <= t[0] <= t[-1] < T
    with refused("5 sampling steps", "T = 4"):
        timesteps(4, 5, "upper")
