"""Inpainting, and interpolation between the noise of two images."""

import math

import numpy as np
import pytest
from sampler_models import last, noises, perfect_model

from minddpm import GaussianDiffusion, backend
from minddpm.diffusion.sampling import ddim, inpaint, interpolate, nearer_labels, slerp
from minddpm.diffusion.schedules import cosine, linear
from refusals import refused

LEFT = np.zeros((1, 8, 8, 1), np.float32)
LEFT[:, :, :4] = 1


def pair_model(betas, correlation):
    """Return E[eps | x_t] for images N(0, 1) whose right half is correlated with the left one.

    Each pair (a, b) of pixels has a covariance matrix K; x_t has ac K + (1 - ac) I, and
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


@pytest.mark.parametrize("correlation", [0.0, 0.9, -0.9])
def test_the_filled_half_has_the_right_distribution_given_the_known_half(any_backend, correlation):
    """b given a is N(r a, 1 - r^2): with enough resampling the filled half has it."""
    betas = linear(100)
    d = GaussianDiffusion(betas, variance="fixed_large", clip_x0=False)
    x0 = np.random.default_rng(0).standard_normal((200, 8, 8, 1), "float32")
    model = pair_model(betas, correlation)
    x = last(inpaint(d, model, backend.xp.asarray(x0), backend.xp.asarray(LEFT), resample=10))
    np.testing.assert_array_equal(x[:, :, :4], x0[:, :, :4])
    a, b = x[:, :, :4].ravel(), x[:, :, 4:].ravel()
    slope = (a * b).mean() / (a * a).mean()
    assert slope == pytest.approx(correlation, abs=0.08)
    assert (b - slope * a).std() == pytest.approx(math.sqrt(1 - correlation**2), abs=0.08)


def test_without_resampling_the_halves_are_less_correlated():
    betas = linear(100)
    d = GaussianDiffusion(betas, variance="fixed_large", clip_x0=False)
    x0 = np.random.default_rng(0).standard_normal((200, 8, 8, 1), "float32")
    covariance = {}
    for resample in (1, 10):
        x = last(inpaint(d, pair_model(betas, 0.9), x0, LEFT, resample=resample))
        a, b = x[:, :, :4].ravel(), x[:, :, 4:].ravel()
        covariance[resample] = (a * b).mean()
    assert covariance[1] < covariance[10] - 0.1


@pytest.mark.parametrize("steps", [None, 7, 1])
def test_inpaint_yields_one_step_per_timestep(steps):
    d, x0 = GaussianDiffusion(cosine(12)), noises(1)[0]
    model = perfect_model(cosine(12), 0.0, 0.5)
    yielded = list(inpaint(d, model, x0, LEFT, steps, resample=2))
    assert len(yielded) == (steps or 12)
    assert yielded[-1].t == (11 if steps == 1 else 0)
    again = list(inpaint(d, model, x0, LEFT, steps, resample=2))
    np.testing.assert_array_equal(again[-1].x, yielded[-1].x)
    other = list(inpaint(d, model, x0, LEFT, steps, resample=2, seed=1))
    assert (other[-1].x != yielded[-1].x).any()


def test_bad_input_is_refused():
    d, x0 = GaussianDiffusion(cosine(12)), noises(1)[0]
    with refused("resample 0"):
        next(inpaint(d, perfect_model(cosine(12), 0, 1), x0, LEFT, resample=0))
    with refused("mask"):
        next(inpaint(d, perfect_model(cosine(12), 0, 1), x0, LEFT / 2))


def test_slerp_preserves_the_length_and_the_ends(any_backend):
    a, b = noises(2, (3, 16, 16, 1))
    results = {f: backend.to_numpy(slerp(a, b, f)) for f in (0.0, 0.3, 0.5, 1.0)}
    np.testing.assert_allclose(results[0.0], backend.to_numpy(a), atol=1e-5)
    np.testing.assert_allclose(results[1.0], backend.to_numpy(b), atol=1e-5)
    lengths = {f: np.sqrt((x**2).sum(axis=(1, 2, 3))) for f, x in results.items()}
    mean = (backend.to_numpy(a) + backend.to_numpy(b)) / 2
    mean_length = np.sqrt((mean**2).sum(axis=(1, 2, 3)))
    assert (lengths[0.5] > 0.95 * np.minimum(lengths[0.0], lengths[1.0])).all()
    assert (mean_length < 0.85 * lengths[0.5]).all()


def test_slerp_rotates_at_constant_speed():
    """For two orthogonal vectors it is (cos, sin)."""
    a, b = np.zeros((2, 1, 2, 1, 1)), None
    a[0, 0, 0], a[1, 0, 1] = 1, 1
    a, b = a
    for fraction in (0.0, 0.25, 0.7):
        x = slerp(a, b, fraction).ravel()
        angle = fraction * math.pi / 2
        np.testing.assert_allclose(x, [math.cos(angle), math.sin(angle)], atol=1e-12)
    np.testing.assert_allclose(slerp(a, a, 0.4), a, atol=1e-9)


def test_interpolation_samples_from_the_noise_between_share_by_share(any_backend):
    d, model = GaussianDiffusion(cosine(12)), perfect_model(cosine(12), 0.1, 0.5)
    first, second = (backend.xp.asarray(x) for x in noises(2, (3, 4, 4, 1)))
    shares = [0.0, 0.3, 1.0]
    images = last(interpolate(d, model, first, second, shares, 4, spacing="linspace"))
    assert images.shape == (9, 4, 4, 1)
    for i, share in enumerate(shares):
        x_T = slerp(first, second, share)
        alone = last(ddim(d, model, x_T.shape, 4, x_T=x_T, spacing="linspace"))
        np.testing.assert_allclose(images[3 * i : 3 * i + 3], alone, atol=1e-6)


def test_an_image_between_two_has_the_label_of_the_nearer_one():
    labels = nearer_labels(np.array([1, 2]), np.array([7, 8]), [0.0, 0.5, 0.75])
    assert labels.tolist() == [1, 2, 1, 2, 7, 8]
