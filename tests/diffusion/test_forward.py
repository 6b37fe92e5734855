"""The forward process q against its definition, computed here in plain float64."""

import math

import numpy as np
import pytest
from formulas import BETAS, T, ac, images, per_image, posterior_variance

from minddpm import GaussianDiffusion, Tensor, backend, random
from minddpm.diffusion.schedules import cosine

# --- conventions ---------------------------------------------------------------------------------


def test_t_is_zero_based_and_there_is_no_noise_before_it():
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
def test_results_have_the_dtype_of_the_images(any_backend, dtype):
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
    """x_t = sqrt(1 - beta_t) x_{t-1} + sqrt(beta_t) noise, each image at its own t."""
    d, x, z, t = GaussianDiffusion(BETAS), images(0), images(1), np.array([0, 7, T - 1])
    result = backend.to_numpy(d.q_step(backend.xp.asarray(x), t, backend.xp.asarray(z)))
    for n in range(3):
        beta = BETAS[t[n]]
        expected = math.sqrt(1 - beta) * x[n] + math.sqrt(beta) * z[n]
        np.testing.assert_allclose(result[n], expected, rtol=1e-12)


def test_q_sample_normal_equals_normal_then_q_sample(any_backend):
    """Also: the loss accepts the x_t that q_sample_normal returned."""
    d, t, key = GaussianDiffusion(BETAS), np.array([0, 7, 29]), (3, random.NOISE, 9)
    x0 = backend.xp.asarray(images(0).astype(np.float32))
    x_t, noise = d.q_sample_normal(x0, t, *key)
    z = random.normal(x0.shape, *key)
    np.testing.assert_array_equal(backend.to_numpy(noise), backend.to_numpy(z))
    np.testing.assert_array_equal(backend.to_numpy(x_t), backend.to_numpy(d.q_sample(x0, t, z)))
    inputs = []

    def model(x, t):
        inputs.append(x)
        return Tensor(x)

    losses = d.training_losses(model, x0, t, noise, x_t=x_t)
    assert inputs[0] is x_t
    assert (losses.numpy() == d.training_losses(model, x0, t, noise).numpy()).all()


def test_q_sample_is_equation_4(any_backend):
    """x_t = sqrt(ac_t) x0 + sqrt(1 - ac_t) noise, each image at its own t."""
    d, x, z, t = GaussianDiffusion(BETAS), images(0), images(1), np.array([0, 7, T - 1])
    result = backend.to_numpy(d.q_sample(backend.xp.asarray(x), t, backend.xp.asarray(z)))
    for n in range(3):
        expected = math.sqrt(ac(t[n])) * x[n] + math.sqrt(1 - ac(t[n])) * z[n]
        np.testing.assert_allclose(result[n], expected, rtol=1e-12)


def test_t_steps_have_the_mean_and_variance_of_one_jump():
    """A step is linear: x_t = a x_{t-1} + b z, so mean_t = a mean and var_t = a^2 var + b^2."""
    d = GaussianDiffusion(BETAS)
    one, zero = np.ones((1, 1, 1, 1)), np.zeros((1, 1, 1, 1))
    mean, variance = 0.7, 0.0
    for t in range(T):
        a = d.q_step(one, np.array([t]), zero).item()
        b = d.q_step(zero, np.array([t]), one).item()
        mean, variance = a * mean, a * a * variance + b * b
        # one jump has the same mean and variance
        assert d.q_sample(0.7 * one, np.array([t]), zero).item() == pytest.approx(mean, rel=1e-12)
        assert d.q_sample(zero, np.array([t]), one).item() ** 2 == pytest.approx(variance, rel=1e-9)
        # and q_mean_variance returns them
        q = d.q_mean_variance(0.7 * one, np.array([t]))
        assert q.mean.item() == pytest.approx(mean, rel=1e-12)
        assert q.variance.item() == pytest.approx(variance, rel=1e-9)
        assert q.log_variance.item() == pytest.approx(math.log(variance), rel=1e-9, abs=1e-9)


def test_t_steps_have_the_distribution_of_one_jump():
    """Monte Carlo: mean, variance and tail, each within 5 standard errors of the normal's."""
    d, rng, n = GaussianDiffusion(BETAS), np.random.default_rng(0), 20_000
    x0, last = np.full((1, n, 1, 1), 0.7), 14
    stepped = x0
    for t in range(last + 1):
        stepped = d.q_step(stepped, np.array([t]), rng.standard_normal(x0.shape))
    jumped = d.q_sample(x0, np.array([last]), rng.standard_normal(x0.shape))
    mean, sd = 0.7 * math.sqrt(ac(last)), math.sqrt(1 - ac(last))
    tail = math.erfc(1.5 / math.sqrt(2))  # P(|z| > 1.5)
    for x in (stepped, jumped):
        z = (x - mean) / sd
        assert abs(z.mean()) < 5 / math.sqrt(n)
        assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
        assert abs((np.abs(z) > 1.5).mean() - tail) < 5 * math.sqrt(tail * (1 - tail) / n)


@pytest.mark.parametrize(
    ("steps", "bits"), [(100, 0.326), (200, 0.102), (300, 0.0355), (500, 0.0046), (1000, 2.9e-5)]
)
def test_the_bits_that_an_unscaled_schedule_leaves(steps, bits):
    """KL(q(x_T | x_0) || N(0, 1)) = (m^2 + v - 1 - ln v) / 2 nats per pixel, at |x_0| = 1."""
    d = GaussianDiffusion(np.linspace(1e-4, 0.02, steps))
    q = d.q_mean_variance(np.ones((1, 1, 1, 1)), np.array([steps - 1]))
    nats = (q.mean**2 + q.variance - 1 - q.log_variance) / 2
    assert nats.item() / math.log(2) == pytest.approx(bits, rel=0.02)


# --- the posterior -------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [1, 2, 10, T - 1])
def test_posterior_is_bayes_rule(t):
    """q(x_{t-1} | x_t, x_0) ~ q(x_t | x_{t-1}) q(x_{t-1} | x_0), multiplied on a grid."""
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


def test_the_first_posterior_is_the_image_itself():
    """At t = 0 the variance is 0; only its logarithm is made finite: that of t = 1."""
    x0, x_t = images(0), images(1)
    q = GaussianDiffusion(BETAS).q_posterior_mean_variance(x0, x_t, np.zeros(3, int))
    np.testing.assert_allclose(q.mean, x0, rtol=1e-12)
    np.testing.assert_array_equal(q.variance, 0)
    np.testing.assert_allclose(
        per_image(q.log_variance), math.log(posterior_variance(1)), rtol=1e-12
    )


def test_a_process_of_one_step_has_a_finite_logarithm():
    d = GaussianDiffusion([0.3])
    assert d.posterior_log_variance_clipped[0] == pytest.approx(math.log(0.3))
    assert d.fixed_large_variance[0] == pytest.approx(0.3)


def test_the_cosine_schedule_makes_a_process_of_any_length():
    """Its last beta of 0.999 leaves alphas_cumprod above 0, so that every table stays finite."""
    for steps in (1, 2, 10, 1000):
        d = GaussianDiffusion(cosine(steps))
        for name, table in vars(d).items():
            if isinstance(table, np.ndarray):
                assert np.isfinite(table).all(), name
