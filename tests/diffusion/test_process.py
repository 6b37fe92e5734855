"""The diffusion process against what its definition says, re-derived here in plain float64."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpm import GaussianDiffusion, Tensor, backend, no_grad, random
from minddpm.diffusion.schedules import cosine, linear
from minddpm.errors import InputError
from refusals import refused

T = 30
BETAS = linear(T)
PREDICTIONS = ("epsilon", "x0", "v")
VARIANCES = ("fixed_small", "fixed_large")


def ac(t):
    """What is left of the picture's variance after steps 0 .. t; all of it before step 0."""
    left = 1.0
    for beta in BETAS[: t + 1]:
        left *= 1 - beta
    return left


def posterior_variance(t):
    """beta_t (1 - ac_{t-1}) / (1 - ac_t), equation 7."""
    return BETAS[t] * (1 - ac(t - 1)) / (1 - ac(t))


def images(seed, N=3, C=2, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal((N, 4, 5, C)).astype(dtype)


def every_t(x):
    """The same images at t = 0, at t = 1, ...: x [4, 5, C] and t int [T]."""
    return np.broadcast_to(x, (T, *x.shape)).copy(), np.arange(T)


def ends(array):
    """The one value in each [1, 1, 1] of an [N, 1, 1, 1] table."""
    assert array.shape[1:] == (1, 1, 1)
    return array[:, 0, 0, 0]


# --- conventions ---------------------------------------------------------------------------------


def test_t_counts_from_zero_and_before_it_there_is_no_noise():
    d = GaussianDiffusion(BETAS)
    assert d.T == T
    assert d.alphas_cumprod_prev[0] == 1
    np.testing.assert_array_equal(d.alphas_cumprod_prev[1:], d.alphas_cumprod[:-1])
    np.testing.assert_allclose(d.alphas_cumprod, [ac(t) for t in range(T)], rtol=1e-13)


def test_tables_are_float64():
    d = GaussianDiffusion(BETAS.astype(np.float32).tolist())
    tables = [v for v in vars(d).values() if isinstance(v, np.ndarray) and v is not d.timestep_map]
    assert len(tables) >= 10
    assert all(table.dtype == np.float64 for table in tables)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_images_keep_their_type(any_backend, dtype):
    d = GaussianDiffusion(BETAS)
    x, t = backend.xp.asarray(images(0, dtype=dtype)), np.array([0, 1, T - 1])
    step = d.p_mean_variance(lambda x, t: x, x, t)
    results = [d.q_step(x, t, x), d.q_sample(x, t, x), *d.q_mean_variance(x, t), *step]
    results += d.q_posterior_mean_variance(x, x, t)
    assert {r.dtype for r in results} == {np.dtype(dtype)}


@pytest.mark.parametrize("t", [[2, 0, 5], (2, 0, 5), np.array([2, 0, 5], np.uint8)])
def test_t_may_be_any_three_integers(t):
    d, x = GaussianDiffusion(BETAS), images(0)
    expected = d.q_sample(x, np.array([2, 0, 5]), x)
    np.testing.assert_array_equal(d.q_sample(x, t, x), expected)


@pytest.mark.parametrize("t", [4, np.int64(4)])
def test_t_may_be_one_number_for_one_image(t):
    d, x = GaussianDiffusion(BETAS), images(0, N=1)
    np.testing.assert_array_equal(d.q_sample(x, t, x), d.q_sample(x, np.array([4]), x))


# --- q -------------------------------------------------------------------------------------------


def test_q_step_is_equation_2(any_backend):
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise, each image with its own t."""
    d, x, z, t = GaussianDiffusion(BETAS), images(0), images(1), np.array([0, 7, T - 1])
    result = backend.to_numpy(d.q_step(backend.xp.asarray(x), t, backend.xp.asarray(z)))
    for n in range(3):
        beta = BETAS[t[n]]
        expected = math.sqrt(1 - beta) * x[n] + math.sqrt(beta) * z[n]
        np.testing.assert_allclose(result[n], expected, rtol=1e-12)


def test_noise_may_be_drawn_while_noising(any_backend):
    """q_sample_normal is random.normal and q_sample, and its x_t can be given to the loss."""
    d, t, key = GaussianDiffusion(BETAS), np.array([0, 7, 29]), (3, random.NOISE, 9)
    x0 = backend.xp.asarray(images(0).astype(np.float32))
    x_t, noise = d.q_sample_normal(x0, t, *key)
    z = random.normal(x0.shape, *key)
    np.testing.assert_array_equal(backend.to_numpy(noise), backend.to_numpy(z))
    np.testing.assert_array_equal(backend.to_numpy(x_t), backend.to_numpy(d.q_sample(x0, t, z)))
    seen = []

    def model(x, t):
        seen.append(x)
        return Tensor(x)

    losses = d.training_losses(model, x0, t, noise, x_t=x_t)
    assert seen[0] is x_t
    assert (losses.numpy() == d.training_losses(model, x0, t, noise).numpy()).all()


def test_q_sample_is_equation_4(any_backend):
    """x_t = sqrt(ac_t) x0 + sqrt(1 - ac_t) noise, each image with its own t."""
    d, x, z, t = GaussianDiffusion(BETAS), images(0), images(1), np.array([0, 7, T - 1])
    result = backend.to_numpy(d.q_sample(backend.xp.asarray(x), t, backend.xp.asarray(z)))
    for n in range(3):
        expected = math.sqrt(ac(t[n])) * x[n] + math.sqrt(1 - ac(t[n])) * z[n]
        np.testing.assert_allclose(result[n], expected, rtol=1e-12)


def test_steps_and_jump_have_the_same_mean_and_variance():
    """A step is linear: x_t = a x_{t-1} + b z, so mean_t = a mean and var_t = a^2 var + b^2."""
    d = GaussianDiffusion(BETAS)
    one, zero = np.ones((1, 1, 1, 1)), np.zeros((1, 1, 1, 1))
    mean, variance = 0.7, 0.0
    for t in range(T):
        a = d.q_step(one, np.array([t]), zero).item()
        b = d.q_step(zero, np.array([t]), one).item()
        mean, variance = a * mean, a * a * variance + b * b
        # the same two numbers of one jump
        assert d.q_sample(0.7 * one, np.array([t]), zero).item() == pytest.approx(mean, rel=1e-12)
        assert d.q_sample(zero, np.array([t]), one).item() ** 2 == pytest.approx(variance, rel=1e-9)
        # and as q_mean_variance states them
        q = d.q_mean_variance(0.7 * one, np.array([t]))
        assert q.mean.item() == pytest.approx(mean, rel=1e-12)
        assert q.variance.item() == pytest.approx(variance, rel=1e-9)
        assert q.log_variance.item() == pytest.approx(math.log(variance), rel=1e-9, abs=1e-9)


def test_steps_and_jump_have_the_same_distribution():
    """Monte Carlo: mean, variance and tail, each within 5 standard errors of the normal's."""
    d, rng, n = GaussianDiffusion(BETAS), np.random.default_rng(0), 20_000
    x0, last = np.full((1, n, 1, 1), 0.7), 14
    walked = x0
    for t in range(last + 1):
        walked = d.q_step(walked, np.array([t]), rng.standard_normal(x0.shape))
    jumped = d.q_sample(x0, np.array([last]), rng.standard_normal(x0.shape))
    mean, sd = 0.7 * math.sqrt(ac(last)), math.sqrt(1 - ac(last))
    tail = math.erfc(1.5 / math.sqrt(2))  # P(|z| > 1.5)
    for x in (walked, jumped):
        z = (x - mean) / sd
        assert abs(z.mean()) < 5 / math.sqrt(n)
        assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
        assert abs((np.abs(z) > 1.5).mean() - tail) < 5 * math.sqrt(tail * (1 - tail) / n)


@pytest.mark.parametrize(
    ("steps", "bits"), [(100, 0.326), (200, 0.102), (300, 0.0355), (500, 0.0046), (1000, 2.9e-5)]
)
def test_what_an_unscaled_schedule_leaves_in_bits(steps, bits):
    """KL(q(x_T | x_0) || N(0, 1)) = (m^2 + v - 1 - ln v) / 2 nats for each pixel, at |x_0| = 1."""
    d = GaussianDiffusion(np.linspace(1e-4, 0.02, steps))
    q = d.q_mean_variance(np.ones((1, 1, 1, 1)), np.array([steps - 1]))
    nats = (q.mean**2 + q.variance - 1 - q.log_variance) / 2
    assert nats.item() / math.log(2) == pytest.approx(bits, rel=0.02)


# --- the posterior -------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 2, 10, T - 1])
def test_posterior_is_bayes_rule(t):
    """q(x_{t-1} | x_t, x_0) ~ q(x_t | x_{t-1}) q(x_{t-1} | x_0), multiplied out on a grid."""
    x0, x_t = 0.4, -0.9
    m, v = math.sqrt(ac(t - 1)) * x0, 1 - ac(t - 1)
    grid = np.linspace(m - 12 * math.sqrt(v), m + 12 * math.sqrt(v), 40_001)  # x_{t-1}
    prior = -((grid - m) ** 2) / (2 * v)
    likelihood = -((x_t - math.sqrt(1 - BETAS[t]) * grid) ** 2) / (2 * BETAS[t])
    density = np.exp(prior + likelihood - (prior + likelihood).max())
    density /= density.sum()
    mean = (density * grid).sum()
    variance = (density * (grid - mean) ** 2).sum()

    image = np.ones((1, 1, 1, 1))
    q = GaussianDiffusion(BETAS).q_posterior_mean_variance(x0 * image, x_t * image, np.array([t]))
    assert q.mean.item() == pytest.approx(mean, rel=1e-8)
    assert q.variance.item() == pytest.approx(variance, rel=1e-8)
    assert q.log_variance.item() == pytest.approx(math.log(variance), rel=1e-8)


def test_the_first_posterior_is_the_picture_itself():
    """At t = 0 nothing is left to draw; only the logarithm is made finite, as that of t = 1."""
    x0, x_t = images(0), images(1)
    q = GaussianDiffusion(BETAS).q_posterior_mean_variance(x0, x_t, np.zeros(3, int))
    np.testing.assert_allclose(q.mean, x0, rtol=1e-12)
    np.testing.assert_array_equal(q.variance, 0)
    np.testing.assert_allclose(ends(q.log_variance), math.log(posterior_variance(1)), rtol=1e-12)


def test_a_process_of_one_step_has_a_finite_logarithm():
    d = GaussianDiffusion([0.3])
    assert d.posterior_log_variance_clipped[0] == pytest.approx(math.log(0.3))
    assert d.fixed_large_variance[0] == pytest.approx(0.3)


# --- predictions ---------------------------------------------------------------------------------


def wanted(prediction, t, x0, noise):
    """The perfect model's output."""
    a, b = math.sqrt(ac(t)), math.sqrt(1 - ac(t))
    return {"epsilon": noise, "x0": x0, "v": a * noise - b * x0}[prediction]


PIXEL = st.floats(-1, 1)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(PREDICTIONS), st.integers(0, T - 1), PIXEL, st.floats(-4, 4))
def test_every_prediction_gives_back_picture_and_noise(prediction, t, x0, noise):
    d = GaussianDiffusion(BETAS, prediction)
    x0, noise = np.full((1, 1, 1, 1), x0), np.full((1, 1, 1, 1), noise)
    x_t = math.sqrt(ac(t)) * x0 + math.sqrt(1 - ac(t)) * noise
    output = wanted(prediction, t, x0, noise)
    np.testing.assert_allclose(d.target(x0, np.array([t]), noise), output, atol=1e-12)
    np.testing.assert_allclose(d.predict_x0(x_t, np.array([t]), output), x0, atol=1e-9)
    np.testing.assert_allclose(d.predict_eps(x_t, np.array([t]), output), noise, atol=1e-9)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(PREDICTIONS), st.integers(0, T - 1), st.floats(-3, 3), st.floats(-3, 3))
def test_picture_and_noise_of_any_output_add_up_to_x_t(prediction, t, x_t, output):
    """A model is never perfect; still sqrt(ac) x0 + sqrt(1 - ac) eps = x_t must hold."""
    d = GaussianDiffusion(BETAS, prediction)
    x_t, output = np.full((1, 1, 1, 1), x_t), np.full((1, 1, 1, 1), output)
    x0 = d.predict_x0(x_t, np.array([t]), output)
    eps = d.predict_eps(x_t, np.array([t]), output)
    total = math.sqrt(ac(t)) * x0 + math.sqrt(1 - ac(t)) * eps
    np.testing.assert_allclose(total, x_t, atol=1e-10)


# --- p -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [True, False])
def test_p_mean_is_the_posterior_of_the_predicted_picture(prediction, clip):
    """Equations 6 and 7 with pred_x0 in the place of x0, image by image in plain formulas."""
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
    np.testing.assert_allclose(ends(small.variance), posterior, rtol=1e-9)
    np.testing.assert_allclose(ends(large.variance)[1:], BETAS[1:], rtol=1e-12)
    for step in (small, large):
        logarithms = np.log(ends(step.variance)[1:])
        np.testing.assert_allclose(ends(step.log_variance)[1:], logarithms, rtol=1e-9)


def test_both_variances_have_the_same_logarithm_at_t_zero():
    """That of the posterior at t = 1: the true one is -infinity."""
    for variance in VARIANCES:
        d = GaussianDiffusion(BETAS, variance=variance)
        step = d.p_mean_variance(lambda x, t: x, images(0), np.zeros(3, int))
        expected = math.log(posterior_variance(1))
        np.testing.assert_allclose(ends(step.log_variance), expected, rtol=1e-9)


@pytest.mark.parametrize(("s", "variance"), [(1.0, "fixed_large"), (0.0, "fixed_small")])
def test_which_data_each_variance_is_right_for(s, variance):
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


# --- training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_training_loss_is_the_mean_square_of_each_image(prediction):
    d = GaussianDiffusion(BETAS, prediction)
    x0, noise, output, t = images(0), images(1), images(2), np.array([0, 9, T - 1])
    losses = d.training_losses(lambda x, t: Tensor(output), x0, t, noise)
    assert losses.shape == (3,)
    for n in range(3):
        target = wanted(prediction, t[n], x0[n], noise[n])
        squares = [(a - b) ** 2 for a, b in zip(target.ravel(), output[n].ravel(), strict=True)]
        assert losses.numpy()[n] == pytest.approx(sum(squares) / len(squares), rel=1e-12)


def test_the_model_sees_x_t_and_t():
    seen = []

    def model(x, t):
        seen.append((x, t))
        return Tensor(x)

    x0, noise, t = images(0), images(1), np.array([0, 9, T - 1])
    GaussianDiffusion(BETAS).training_losses(model, x0, t, noise)
    x_t, told = seen[0]
    np.testing.assert_array_equal(told, t)
    for n in range(3):
        expected = math.sqrt(ac(t[n])) * x0[n] + math.sqrt(1 - ac(t[n])) * noise[n]
        np.testing.assert_allclose(x_t[n], expected, rtol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_gradient_of_the_loss(prediction):
    """For output = w x_t: d/dw mean (target - w x_t)^2 = mean -2 x_t (target - w x_t)."""
    d = GaussianDiffusion(BETAS, prediction)
    x0, noise, t = images(0), images(1), np.array([0, 9, T - 1])
    w = Tensor(np.full((1, 1, 1, 1), 0.3), requires_grad=True)
    d.training_losses(lambda x, t: w * x, x0, t, noise).mean().backward()
    gradient = 0.0
    for n in range(3):
        x_t = math.sqrt(ac(t[n])) * x0[n] + math.sqrt(1 - ac(t[n])) * noise[n]
        target = wanted(prediction, t[n], x0[n], noise[n])
        gradient += (-2 * x_t * (target - 0.3 * x_t)).mean() / 3
    assert w.grad.item() == pytest.approx(gradient, rel=1e-10)


def test_a_perfect_model_has_no_loss():
    for prediction in PREDICTIONS:
        d = GaussianDiffusion(BETAS, prediction)
        x0, noise, t = images(0), images(1), np.array([0, 9, T - 1])
        output = np.stack([wanted(prediction, t[n], x0[n], noise[n]) for n in range(3)])
        losses = d.training_losses(lambda x, t, y=output: Tensor(y), x0, t, noise)
        np.testing.assert_allclose(losses.numpy(), 0, atol=1e-25)


def test_no_grad_gives_the_same_loss_without_a_graph():
    d, x0, t = GaussianDiffusion(BETAS), images(0), np.array([0, 9, T - 1])
    w = Tensor(np.full((1, 1, 1, 1), 0.3), requires_grad=True)
    recorded = d.training_losses(lambda x, t: w * x, x0, t, x0)
    with no_grad():
        silent = d.training_losses(lambda x, t: w * x, x0, t, x0)
    np.testing.assert_array_equal(recorded.numpy(), silent.numpy())
    assert recorded.creator is not None
    assert silent.creator is None


# --- fewer steps ---------------------------------------------------------------------------------

KEPT = [0, 3, 4, 11, T - 1]


def test_respacing_keeps_alphas_cumprod():
    short = GaussianDiffusion(BETAS).respaced(np.array(KEPT))
    assert len(short.betas) == short.T == 5
    np.testing.assert_allclose(short.alphas_cumprod, [ac(t) for t in KEPT], rtol=1e-10)
    np.testing.assert_array_equal(short.timestep_map, KEPT)


def test_one_long_step_is_the_steps_in_between():
    """The kept noise levels are those of walking every step of the long process."""
    short = GaussianDiffusion(BETAS).respaced(np.array(KEPT))
    kept = 1.0
    for t in range(5, 12):  # the steps after t = 4, up to t = 11
        kept *= 1 - BETAS[t]
    assert short.betas[3] == pytest.approx(1 - kept, rel=1e-12)


def test_respacing_keeps_the_options():
    d = GaussianDiffusion(BETAS, "v", "fixed_large", clip_x0=False).respaced(np.array(KEPT))
    assert (d.prediction, d.variance, d.clip_x0) == ("v", "fixed_large", False)


def test_respacing_twice_composes_the_maps():
    twice = GaussianDiffusion(BETAS).respaced(np.array(KEPT)).respaced(np.array([1, 3]))
    np.testing.assert_array_equal(twice.timestep_map, [KEPT[1], KEPT[3]])
    np.testing.assert_allclose(twice.alphas_cumprod, [ac(KEPT[1]), ac(KEPT[3])], rtol=1e-12)


def test_keeping_every_step_changes_nothing():
    d = GaussianDiffusion(BETAS)
    np.testing.assert_allclose(d.respaced(np.arange(T)).betas, BETAS, rtol=1e-9)


def test_a_shortened_process_tells_the_model_the_t_that_it_knows():
    told = []

    def model(x, t):
        told.append(t)
        return Tensor(x)

    short = GaussianDiffusion(BETAS).respaced(np.array(KEPT))
    short.p_mean_variance(model, images(0), np.array([0, 3, 4]))
    short.training_losses(model, images(0), np.array([0, 3, 4]), images(1))
    np.testing.assert_array_equal(told, [[0, 11, T - 1]] * 2)


def test_fixed_large_of_a_shortened_process_is_its_own_beta():
    """1 - ac_t / ac_{previous kept t}: at few steps far more than the posterior's variance."""
    short = GaussianDiffusion(BETAS, variance="fixed_large").respaced(np.array(KEPT))
    table, _ = short.model_variance()
    assert table[3] == pytest.approx(1 - ac(11) / ac(4), rel=1e-10)


# --- bad input -----------------------------------------------------------------------------------

CALLS = {
    "q_step": lambda d, x, t: d.q_step(x, t, x),
    "q_sample": lambda d, x, t: d.q_sample(x, t, x),
    "q_sample_normal": lambda d, x, t: d.q_sample_normal(x, t, 0, 0),
    "q_mean_variance": lambda d, x, t: d.q_mean_variance(x, t),
    "q_posterior_mean_variance": lambda d, x, t: d.q_posterior_mean_variance(x, x, t),
    "predict_x0": lambda d, x, t: d.predict_x0(x, t, x),
    "predict_eps": lambda d, x, t: d.predict_eps(x, t, x),
    "p_mean_variance": lambda d, x, t: d.p_mean_variance(lambda x, t: x, x, t),
    "training_losses": lambda d, x, t: d.training_losses(lambda x, t: Tensor(x), x, t, x),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@every_call
@pytest.mark.parametrize("t", [[0, 1, T], [0, -1, 1], [0, 1, 2**40]])
def test_t_outside_the_process_is_refused(call, t):
    with refused("t reaches from", f"choose 0 .. {T - 1}"):
        call(GaussianDiffusion(BETAS), images(0), np.array(t))


@every_call
@pytest.mark.parametrize(
    "t", [[0.0, 1.0, 2.0], [True, False, True], [0, 1], [0, 1, 2, 3], [[0], [1], [2]], []]
)
def test_t_that_is_not_one_integer_for_each_image_is_refused(call, t):
    with refused("give 3 integers, one for each image"):
        call(GaussianDiffusion(BETAS), images(0), np.array(t))


@pytest.mark.parametrize("call", ["q_step", "q_sample"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 1), (1, 4, 5, 2), (4, 5, 2), (3, 5, 4, 2)])
def test_noise_of_another_shape_is_refused(call, shape):
    """Also where NumPy would stretch it: one noise for all images is not what was meant."""
    d, t = GaussianDiffusion(BETAS), np.array([0, 1, 2])
    with refused("noise of shape", "make it equal"):
        getattr(d, call)(images(0), t, np.zeros(shape))
    with refused("noise of shape", "make it equal"):
        d.training_losses(lambda x, t: Tensor(x), images(0), t, np.zeros(shape))
    with refused("noise of shape", "make it equal"):
        d.training_losses(lambda x, t: Tensor(x), images(0), t, np.zeros(shape), x_t=images(0))


def test_unknown_names_are_refused():
    with refused("prediction 'noise'", *PREDICTIONS):
        GaussianDiffusion(BETAS, "noise")
    with refused("variance 'learned'", *VARIANCES):
        GaussianDiffusion(BETAS, variance="learned")
    with refused("loss 'l1'", "simple"):
        x = images(0)
        d = GaussianDiffusion(BETAS)
        d.training_losses(lambda x, t: Tensor(x), x, np.array([0, 1, 2]), x, loss="l1")


@pytest.mark.parametrize("betas", [[0.0, 0.1], [0.1, 1.0], [-0.1, 0.1], [0.1, float("nan")]])
def test_betas_outside_the_open_interval_are_refused(betas):
    with refused("between 0 and 1"):
        GaussianDiffusion(betas)


@pytest.mark.parametrize("betas", [[], [[0.1]], 0.1])
def test_betas_of_another_shape_are_refused(betas):
    with refused("one number for each"):
        GaussianDiffusion(betas)


@pytest.mark.parametrize("kept", [[3, 1], [1, 1], [0, 2, 2]])
def test_timesteps_that_do_not_rise_are_refused(kept):
    with refused("must rise"):
        GaussianDiffusion(BETAS).respaced(np.array(kept))


@pytest.mark.parametrize("kept", [[0, T], [-1, 3]])
def test_timesteps_outside_the_process_are_refused(kept):
    with refused(f"choose 0 .. {T - 1}"):
        GaussianDiffusion(BETAS).respaced(np.array(kept))


@pytest.mark.parametrize("kept", [[0.5, 1.7], [0.0, 3.0]])
def test_fractions_as_timesteps_are_refused(kept):
    """Cutting 1.7 down to 1 in silence would keep another step than was asked for."""
    with refused("integers"):
        GaussianDiffusion(BETAS).respaced(np.array(kept))


def test_no_timesteps_at_all_are_refused():
    with refused():
        GaussianDiffusion(BETAS).respaced(np.array([], int))


def test_the_cosine_schedule_makes_a_process_of_any_length():
    """Its last beta of .999 leaves alphas_cumprod above 0, so that every table stays finite."""
    for steps in (1, 2, 10, 1000):
        d = GaussianDiffusion(cosine(steps))
        for name, table in vars(d).items():
            if isinstance(table, np.ndarray):
                assert np.isfinite(table).all(), name


def test_a_model_of_other_channels_is_refused():
    """[N, H, W, 1] against [N, H, W, 3] would be broadcast in silence."""
    d = GaussianDiffusion(linear(50))
    x, t = np.zeros((2, 4, 4, 3), np.float32), np.array([1, 2])
    for call in (
        lambda: d.p_mean_variance(lambda x, t: x[..., :1], x, t),
        lambda: d.training_losses(lambda x, t: x[..., :1], x, t, x),
    ):
        with pytest.raises(InputError, match="output channels"):
            call()
    with pytest.raises(InputError, match="timestep_map has 3"):
        GaussianDiffusion(linear(50), timestep_map=np.arange(3))
