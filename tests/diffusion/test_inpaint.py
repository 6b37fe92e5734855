"""Filling in what is missing, and the way from one picture's noise to another's."""

import math

import numpy as np
import pytest
from test_sampling import noises, perfect_model

from minddpm import GaussianDiffusion, backend
from minddpm.diffusion.sampling import inpaint, slerp
from minddpm.diffusion.schedules import cosine, linear
from refusals import refused

LEFT = np.zeros((1, 8, 8, 1), np.float32)
LEFT[:, :, :4] = 1


def pair_model(betas, correlation):
    """E[eps | x_t] for pictures N(0, 1) whose right half is correlated with the left one.

    Of each pair (a, b) of pixels, with covariance r: x_t has the covariance ac K + (1 - ac) I, and
    E[eps | x_t] = sqrt(1 - ac) (ac K + (1 - ac) I)^-1 x_t.
    """
    ac = np.cumprod(1 - betas)

    def model(x, t):
        left = backend.to_numpy(ac[backend.to_numpy(t)]).reshape(-1, 1, 1, 1)
        x = backend.to_numpy(x).astype(float)
        a, b = x[:, :, :4], x[:, :, 4:]
        r = left * correlation
        inverse = 1 / (1 - r * r)
        pair = [inverse * (a - r * b), inverse * (b - r * a)]
        eps = np.sqrt(1 - left) * np.concatenate(pair, axis=2)
        return backend.xp.asarray(eps.astype("float32"))

    return model


def last(walk):
    *_, step = walk
    return backend.to_numpy(step.x)


@pytest.mark.parametrize("correlation", [0.0, 0.9, -0.9])
def test_what_is_made_fits_what_is_known(any_backend, correlation):
    """b given a is N(r a, 1 - r^2): with enough resampling the made half is that."""
    betas = linear(100)
    d = GaussianDiffusion(betas, variance="fixed_large", clip_x0=False)
    x0 = np.random.default_rng(0).standard_normal((200, 8, 8, 1), "float32")
    model = pair_model(betas, correlation)
    x = last(inpaint(d, model, backend.xp.asarray(x0), backend.xp.asarray(LEFT), resample=10))
    np.testing.assert_array_equal(x[:, :, :4], x0[:, :, :4])
    a, b = x[:, :, :4].ravel(), x[:, :, 4:].ravel()
    found = (a * b).mean() / (a * a).mean()
    assert found == pytest.approx(correlation, abs=0.08)
    assert (b - found * a).std() == pytest.approx(math.sqrt(1 - correlation**2), abs=0.08)


def test_without_resampling_the_halves_hardly_know_each_other():
    betas = linear(100)
    d = GaussianDiffusion(betas, variance="fixed_large", clip_x0=False)
    x0 = np.random.default_rng(0).standard_normal((200, 8, 8, 1), "float32")
    found = {}
    for resample in (1, 10):
        x = last(inpaint(d, pair_model(betas, 0.9), x0, LEFT, resample=resample))
        a, b = x[:, :, :4].ravel(), x[:, :, 4:].ravel()
        found[resample] = (a * b).mean()
    assert found[1] < found[10] - 0.1


@pytest.mark.parametrize("steps", [None, 7, 1])
def test_one_step_for_each_kept_t(steps):
    d, x0 = GaussianDiffusion(cosine(12)), noises(1)[0]
    model = perfect_model(cosine(12), 0.0, 0.5)
    walk = list(inpaint(d, model, x0, LEFT, steps, resample=2))
    assert len(walk) == (steps or 12)
    assert walk[-1].t == 0
    again = list(inpaint(d, model, x0, LEFT, steps, resample=2))
    np.testing.assert_array_equal(again[-1].x, walk[-1].x)
    other = list(inpaint(d, model, x0, LEFT, steps, resample=2, seed=1))
    assert (other[-1].x != walk[-1].x).any()


def test_what_is_refused():
    d, x0 = GaussianDiffusion(cosine(12)), noises(1)[0]
    with refused("resample 0"):
        next(inpaint(d, perfect_model(cosine(12), 0, 1), x0, LEFT, resample=0))
    with refused("mask"):
        next(inpaint(d, perfect_model(cosine(12), 0, 1), x0, LEFT / 2))


def test_slerp_keeps_the_length_and_the_ends(any_backend):
    a, b = noises(2, (3, 16, 16, 1))
    flat = {share: backend.to_numpy(slerp(a, b, share)) for share in (0.0, 0.3, 0.5, 1.0)}
    np.testing.assert_allclose(flat[0.0], backend.to_numpy(a), atol=1e-5)
    np.testing.assert_allclose(flat[1.0], backend.to_numpy(b), atol=1e-5)
    lengths = {share: np.sqrt((x**2).sum(axis=(1, 2, 3))) for share, x in flat.items()}
    straight = np.sqrt((((backend.to_numpy(a) + backend.to_numpy(b)) / 2) ** 2).sum(axis=(1, 2, 3)))
    assert (lengths[0.5] > 0.95 * np.minimum(lengths[0.0], lengths[1.0])).all()
    assert (straight < 0.85 * lengths[0.5]).all()


def test_slerp_turns_evenly():
    """Of two that stand at right angles: cos and sin."""
    a, b = np.zeros((2, 1, 2, 1, 1)), None
    a[0, 0, 0], a[1, 0, 1] = 1, 1
    a, b = a
    for share in (0.0, 0.25, 0.7):
        x = slerp(a, b, share).ravel()
        angle = share * math.pi / 2
        np.testing.assert_allclose(x, [math.cos(angle), math.sin(angle)], atol=1e-12)
    np.testing.assert_allclose(slerp(a, a, 0.4), a, atol=1e-9)
