"""The reverse process p against its formulas: predictions, mean, variance and fewer steps."""

import math

import numpy as np
import pytest
from formulas import (
    BETAS,
    PREDICTIONS,
    VARIANCES,
    T,
    ac,
    every_t,
    images,
    per_image,
    perfect_output,
    posterior_variance,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpm import GaussianDiffusion, Tensor, backend

# --- predictions ---------------------------------------------------------------------------------
PIXEL = st.floats(-1, 1)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PREDICTIONS), st.integers(0, T - 1), PIXEL, st.floats(-4, 4))
def test_every_prediction_recovers_the_image_and_the_noise(prediction, t, x0, noise):
    d = GaussianDiffusion(BETAS, prediction)
    x0, noise = np.full((1, 1, 1, 1), x0), np.full((1, 1, 1, 1), noise)
    x_t = math.sqrt(ac(t)) * x0 + math.sqrt(1 - ac(t)) * noise
    output = perfect_output(prediction, t, x0, noise)
    np.testing.assert_allclose(d.target(x0, np.array([t]), noise), output, atol=1e-12)
    np.testing.assert_allclose(d.predict_x0(x_t, np.array([t]), output), x0, atol=1e-9)
    np.testing.assert_allclose(d.predict_eps(x_t, np.array([t]), output), noise, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PREDICTIONS), st.integers(0, T - 1), st.floats(-3, 3), st.floats(-3, 3))
def test_the_predicted_image_and_noise_add_up_to_x_t(prediction, t, x_t, output):
    """sqrt(ac) x0 + sqrt(1 - ac) eps = x_t must hold for any output, not only a perfect one."""
    d = GaussianDiffusion(BETAS, prediction)
    x_t, output = np.full((1, 1, 1, 1), x_t), np.full((1, 1, 1, 1), output)
    x0 = d.predict_x0(x_t, np.array([t]), output)
    eps = d.predict_eps(x_t, np.array([t]), output)
    total = math.sqrt(ac(t)) * x0 + math.sqrt(1 - ac(t)) * eps
    np.testing.assert_allclose(total, x_t, atol=1e-10)


# --- p -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [True, False])
def test_p_mean_is_the_posterior_of_the_predicted_image(prediction, clip):
    """Equations 6 and 7 with pred_x0 in place of x0, image by image."""
    d = GaussianDiffusion(BETAS, prediction, clip_x0=clip)
    x_t, t = images(0), np.array([0, 9, T - 1])
    output = 3 * images(1)
    step = d.p_mean_variance(lambda x, t: output, x_t, t)
    for n in range(3):
        a, b = math.sqrt(ac(t[n])), math.sqrt(1 - ac(t[n]))
        x0 = {
            "epsilon": (x_t[n] - b * output[n]) / a,
            "x0": output[n],
            "v": a * x_t[n] - b * output[n],
        }[prediction]
        assert np.abs(x0).max() > 1  # so that clipping matters
        if clip:
            x0 = np.minimum(np.maximum(x0, -1), 1)
        prev, beta, rest = ac(t[n] - 1), BETAS[t[n]], 1 - ac(t[n])
        mean = math.sqrt(prev) * beta / rest * x0
        mean += math.sqrt(1 - beta) * (1 - prev) / rest * x_t[n]
        np.testing.assert_allclose(step.pred_x0[n], x0, rtol=1e-9)
        np.testing.assert_allclose(step.mean[n], mean, rtol=1e-9, atol=1e-9)


def test_unclipped_the_mean_is_equation_11():
    """mean = (x_t - beta_t / sqrt(1 - ac_t) eps) / sqrt(1 - beta_t), Algorithm 2's own form."""
    d = GaussianDiffusion(BETAS, clip_x0=False)
    (x_t, t), (eps, _) = every_t(images(0)[0]), every_t(images(1)[0])
    mean = d.p_mean_variance(lambda x, t: eps, x_t, t).mean
    for n in range(T):
        beta = BETAS[n]
        expected = (x_t[n] - beta / math.sqrt(1 - ac(n)) * eps[n]) / math.sqrt(1 - beta)
        np.testing.assert_allclose(mean[n], expected, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_variance_does_not_depend_on_the_prediction(prediction):
    """fixed_small is the posterior's, fixed_large is beta_t."""
    x_t, t = every_t(images(0)[0])
    small = GaussianDiffusion(BETAS, prediction, "fixed_small")
    large = GaussianDiffusion(BETAS, prediction, "fixed_large")
    small, large = (d.p_mean_variance(lambda x, t: x, x_t, t) for d in (small, large))
    np.testing.assert_array_equal(small.mean, large.mean)
    posterior = [posterior_variance(n) for n in range(T)]
    np.testing.assert_allclose(per_image(small.variance), posterior, rtol=1e-9)
    np.testing.assert_allclose(per_image(large.variance)[1:], BETAS[1:], rtol=1e-12)
    for step in (small, large):
        logarithms = np.log(per_image(step.variance)[1:])
        np.testing.assert_allclose(per_image(step.log_variance)[1:], logarithms, rtol=1e-9)


def test_both_variances_have_the_same_logarithm_at_t_zero():
    """That of the posterior variance at t = 1: the logarithm of 0 is -infinity."""
    for variance in VARIANCES:
        d = GaussianDiffusion(BETAS, variance=variance)
        step = d.p_mean_variance(lambda x, t: x, images(0), np.zeros(3, int))
        expected = math.log(posterior_variance(1))
        np.testing.assert_allclose(per_image(step.log_variance), expected, rtol=1e-9)


@pytest.mark.parametrize(("s", "variance"), [(1.0, "fixed_large"), (0.0, "fixed_small")])
def test_each_variance_is_exact_for_some_data(s, variance):
    """For data N(0, s^2), x_{t-1} and x_t are jointly normal, so Var(x_{t-1} | x_t) is known:

    V = ac_{t-1} s^2 + 1 - ac_{t-1};  Var(x_{t-1} | x_t) = V - alpha V^2 / (alpha V + beta).
    """
    d = GaussianDiffusion(BETAS, variance=variance)
    table, _ = d.model_variance()
    for t in range(1, T):
        V = ac(t - 1) * s * s + 1 - ac(t - 1)
        alpha, beta = 1 - BETAS[t], BETAS[t]
        assert table[t] == pytest.approx(V - alpha * V * V / (alpha * V + beta), rel=1e-9)


def test_the_model_may_return_an_array_or_a_tensor(any_backend):
    d, t = GaussianDiffusion(BETAS), np.array([0, 1, 2])
    x = backend.xp.asarray(images(0))
    array = d.p_mean_variance(lambda x, t: 0.1 * x, x, t)
    tensor = d.p_mean_variance(lambda x, t: Tensor(0.1 * x), x, t)
    for a, b in zip(array, tensor, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(a), backend.to_numpy(b))


def test_p_mean_variance_records_no_graph():
    outputs = []

    def model(x, t):
        outputs.append(Tensor(x, requires_grad=True) * 2.0)
        return outputs[-1]

    GaussianDiffusion(BETAS).p_mean_variance(model, images(0), np.array([0, 1, 2]))
    assert outputs[0].creator is None


# --- fewer steps ---------------------------------------------------------------------------------
SUBSET = [0, 3, 4, 11, T - 1]


def test_respacing_preserves_alphas_cumprod():
    short = GaussianDiffusion(BETAS).respaced(np.array(SUBSET))
    assert len(short.betas) == short.T == 5
    np.testing.assert_allclose(short.alphas_cumprod, [ac(t) for t in SUBSET], rtol=1e-10)
    np.testing.assert_array_equal(short.timestep_map, SUBSET)


def test_one_long_step_equals_the_steps_in_between():
    """Its noise level is that after every step of the long process."""
    short = GaussianDiffusion(BETAS).respaced(np.array(SUBSET))
    product = 1.0
    for t in range(5, 12):  # the steps after t = 4, up to t = 11
        product *= 1 - BETAS[t]
    assert short.betas[3] == pytest.approx(1 - product, rel=1e-12)


def test_respacing_preserves_the_options():
    d = GaussianDiffusion(BETAS, "v", "fixed_large", clip_x0=False).respaced(np.array(SUBSET))
    assert (d.prediction, d.variance, d.clip_x0) == ("v", "fixed_large", False)


def test_respacing_twice_composes_the_maps():
    twice = GaussianDiffusion(BETAS).respaced(np.array(SUBSET)).respaced(np.array([1, 3]))
    np.testing.assert_array_equal(twice.timestep_map, [SUBSET[1], SUBSET[3]])
    np.testing.assert_allclose(twice.alphas_cumprod, [ac(SUBSET[1]), ac(SUBSET[3])], rtol=1e-12)


def test_respacing_to_all_timesteps_changes_nothing():
    d = GaussianDiffusion(BETAS)
    np.testing.assert_allclose(d.respaced(np.arange(T)).betas, BETAS, rtol=1e-9)


def test_a_shortened_process_gives_the_model_the_t_of_the_long_process():
    timesteps = []

    def model(x, t):
        timesteps.append(t)
        return Tensor(x)

    short = GaussianDiffusion(BETAS).respaced(np.array(SUBSET))
    short.p_mean_variance(model, images(0), np.array([0, 3, 4]))
    short.training_losses(model, images(0), np.array([0, 3, 4]), images(1))
    np.testing.assert_array_equal(timesteps, [[0, 11, T - 1]] * 2)


def test_fixed_large_of_a_shortened_process_is_its_own_beta():
    """1 - ac_t / ac_{previous t of the subset}: far above the posterior variance at few steps."""
    short = GaussianDiffusion(BETAS, variance="fixed_large").respaced(np.array(SUBSET))
    table, _ = short.model_variance()
    assert table[3] == pytest.approx(1 - ac(11) / ac(4), rel=1e-10)
