"""DDPM and DDIM: their distributions, for models whose answer is known, and their formulas."""

import math

import numpy as np
import pytest
from sampler_models import (
    SHAPE,
    alphas_cumprod,
    check_close,
    check_moments,
    last,
    noises,
    perfect_model,
    predicted_x0_and_eps,
    process,
    rough_model,
    rough_model_with_variance,
)

from minddpm import GaussianDiffusion, backend, random, samplers
from minddpm.diffusion.sampling.steps import timesteps
from minddpm.diffusion.schedules import cosine, linear

# --- distributions -------------------------------------------------------------------------------


def test_ddpm_passes_through_the_distributions_of_the_forward_process(any_backend):
    """For data at one point, s = 0, fixed_small is exact at every step."""
    betas, m, shape = linear(50), 0.3, (1, 100, 100, 1)
    ac = [1.0, *alphas_cumprod(betas)]  # ac[t] is the value before step t
    x_T = math.sqrt(ac[-1]) * m + math.sqrt(1 - ac[-1]) * noises(1, shape)[0]
    d = GaussianDiffusion(betas, variance="fixed_small", clip_x0=False)
    for step in samplers.ddpm(d, perfect_model(betas, m, 0.0), shape, seed=1, x_T=x_T):
        sd = math.sqrt(1 - ac[step.t])
        check_moments(step.x, math.sqrt(ac[step.t]) * m, sd, slack=1e-3)
    np.testing.assert_allclose(backend.to_numpy(step.x), m, atol=1e-4)


def test_with_fixed_large_standard_normal_data_stays_standard_normal(any_backend):
    """Data N(0, 1) is N(0, 1) at every t; the last step adds no noise and leaves 1 - beta_0."""
    betas, shape = linear(50), (1, 100, 100, 1)
    d = GaussianDiffusion(betas, variance="fixed_large", clip_x0=False)
    for step in samplers.ddpm(d, perfect_model(betas, 0.0, 1.0), shape, seed=2):
        check_moments(step.x, 0.0, 1.0 if step.t > 0 else math.sqrt(1 - betas[0]))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("T", [50, 400])
def test_ddpm_over_all_steps_reproduces_the_data(variance, T):
    """For s = 1/2 neither variance is exact, but the error falls as 1 / T.

    By the recursion the standard deviation is off by at most 3.7 / T.
    """
    betas, m, s = linear(T), 0.3, 0.5
    d = GaussianDiffusion(betas, variance=variance, clip_x0=False)
    x = last(samplers.ddpm(d, perfect_model(betas, m, s), (1, 100, 100, 1), seed=3))
    check_moments(x, m, s, slack=4 / T)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_over_all_steps_reproduces_the_data(eta):
    T, m, s = 400, 0.3, 0.5
    betas = linear(T)
    d = GaussianDiffusion(betas, clip_x0=False)
    x = last(samplers.ddim(d, perfect_model(betas, m, s), (1, 100, 100, 1), eta=eta, seed=4))
    check_moments(x, m, s, slack=4 / T)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [(samplers.ddpm, {}), (samplers.ddim, {}), (samplers.ddim, {"eta": 1.0})],
)
@pytest.mark.parametrize("steps", [1, 3, 50])
def test_data_at_one_point_is_reproduced_in_any_number_of_steps(sampler, options, steps):
    betas = linear(50)
    d = GaussianDiffusion(betas, clip_x0=False)
    x = last(sampler(d, perfect_model(betas, 0.3, 0.0), SHAPE, steps, **options))
    np.testing.assert_allclose(x, 0.3, atol=2e-3)  # float32, after division by sqrt(ac_T) = 0.001


# --- formulas ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_ddpm_is_algorithm_2_with_equation_7(any_backend, prediction, variance):
    """x_{t-1} = (sqrt(ac_{t-1}) beta x0 + sqrt(alpha) (1 - ac_{t-1}) x_t) / (1 - ac_t) + sigma z"""
    betas = cosine(12)
    acs = [1.0, *alphas_cumprod(betas)]
    x, *z = noises(13)
    steps = samplers.ddpm(
        process(prediction, variance, clip=True), rough_model, SHAPE, x_T=x, noise=lambda i: z[i]
    )
    for i, step in enumerate(steps):
        prev, ac, beta = acs[step.t], acs[step.t + 1], betas[step.t]
        output = rough_model(x, backend.xp.asarray([step.t, step.t]))
        x0 = predicted_x0_and_eps(prediction, x, output, ac)[0].clip(-1, 1)
        mean = math.sqrt(prev) * beta * x0 + math.sqrt(1 - beta) * (1 - prev) * x
        sigma = math.sqrt(beta if variance == "fixed_large" else beta * (1 - prev) / (1 - ac))
        x = mean / (1 - ac) + (sigma * z[i] if step.t > 0 else 0)
        check_close(step.x, x)
        check_close(step.pred_x0, x0)
        x = step.x


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("steps", [None, 5])
def test_ddpm_with_a_learned_variance(any_backend, prediction, steps):
    """sigma = exp(((v + 1)/2 log beta + (1 - v)/2 log posterior variance) / 2) per pixel."""
    d = process(prediction, "learned_range", clip=True)
    x, *z = noises(13)
    yielded = samplers.ddpm(d, rough_model_with_variance, SHAPE, steps, x_T=x, noise=lambda i: z[i])
    short = d if steps is None else d.respaced(timesteps(12, steps, "leading"))
    for i, step in enumerate(yielded):
        t = short.T - 1 - i
        ac, prev, beta = (
            float(table[t])
            for table in (short.alphas_cumprod, short.alphas_cumprod_prev, short.betas)
        )
        output = rough_model_with_variance(x, backend.xp.asarray([step.t, step.t]))
        x0 = predicted_x0_and_eps(prediction, x, output[..., :1], ac)[0].clip(-1, 1)
        mean = math.sqrt(prev) * beta * x0 + math.sqrt(1 - beta) * (1 - prev) * x
        weight = (output[..., 1:] + 1) / 2  # of log beta
        small = beta * (1 - prev) / (1 - ac) if t > 0 else 1.0
        sigma = beta ** (weight / 2) * small ** ((1 - weight) / 2)
        x = mean / (1 - ac) + (sigma * z[i] if t > 0 else 0)
        check_close(step.x, x)
        check_close(step.pred_x0, x0)
        x = step.x
    assert step.t == 0


def test_a_learned_variance_uses_the_noise_of_the_seed():
    d = process(variance="learned_range")
    drawn = samplers.ddpm(d, rough_model_with_variance, SHAPE, seed=4, first=8)
    given = samplers.ddpm(
        d, rough_model_with_variance, SHAPE, x_T=random.normal(SHAPE, 4, random.X_T, first=8),
        noise=lambda i: random.normal(SHAPE, 4, random.SAMPLE, i, first=8),
    )  # fmt: skip
    for one, other in zip(drawn, given, strict=True):
        np.testing.assert_array_equal(one.x, other.x)


def no_noise(i):
    """Fail: the sampler must not draw noise."""
    raise AssertionError(f"noise was drawn at step {i}")


@pytest.mark.parametrize("clipped_eps", [False, True])
def test_ddim_without_eta_depends_only_on_x_t(clipped_eps):
    d, x_T = process(clip=True), noises(1)[0]
    samples = [
        last(samplers.ddim(d, rough_model, SHAPE, x_T=x_T, clipped_eps=clipped_eps, **options))
        for options in ({"seed": 0}, {"seed": 1}, {"noise": no_noise})
    ]
    np.testing.assert_array_equal(samples[0], samples[1])
    np.testing.assert_array_equal(samples[0], samples[2])


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_ddim_is_equation_12(any_backend, prediction):
    """x_{t-1} = sqrt(ac_{t-1}) x0 + sqrt(1 - ac_{t-1} - sigma^2) eps + sigma z."""
    betas, eta = cosine(12), 0.7
    acs = [1.0, *alphas_cumprod(betas)]
    x, *z = noises(13)
    steps = samplers.ddim(
        process(prediction, clip=True), rough_model, SHAPE, eta=eta, x_T=x, noise=lambda i: z[i]
    )
    for i, step in enumerate(steps):
        prev, ac = acs[step.t], acs[step.t + 1]
        output = rough_model(x, backend.xp.asarray([step.t, step.t]))
        x0, eps = predicted_x0_and_eps(prediction, x, output, ac)
        sigma = eta * math.sqrt((1 - prev) / (1 - ac) * (1 - ac / prev))
        x = math.sqrt(prev) * x0.clip(-1, 1) + math.sqrt(1 - prev - sigma**2) * eps + sigma * z[i]
        check_close(step.x, x)
        x = step.x  # so that rounding errors do not accumulate


def test_ddim_ignores_a_learned_variance():
    learned, fixed = process(variance="learned_range"), process()
    for eta in (0.0, 0.7):
        x = last(samplers.ddim(learned, rough_model_with_variance, SHAPE, eta=eta, seed=1))
        expected = last(samplers.ddim(fixed, rough_model, SHAPE, eta=eta, seed=1))
        np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("steps", [None, 4])
def test_ddim_with_eta_1_takes_the_steps_of_ddpm(any_backend, steps):
    """Unclipped, equation 12 with eta = 1 is equation 7: the same x_T and z give the same x."""
    d, z = process(), noises(13)
    options = {"x_T": z[12], "noise": lambda i: z[i]}
    ddim = samplers.ddim(d, rough_model, SHAPE, steps, eta=1.0, **options)
    ddpm = samplers.ddpm(d, rough_model, SHAPE, steps, **options)
    for a, b in zip(ddim, ddpm, strict=True):
        check_close(a.x, b.x, 1e-3)


def test_with_clipping_ddim_needs_clipped_eps_to_equal_ddpm():
    """DDPM's mean uses the clipped pred_x0; so does DDIM if eps is derived from it."""
    d, z = process(clip=True), noises(13)
    options = {"x_T": z[12], "noise": lambda i: z[i]}
    ddpm = last(samplers.ddpm(d, rough_model, SHAPE, **options))
    clipped = last(samplers.ddim(d, rough_model, SHAPE, eta=1.0, clipped_eps=True, **options))
    own = last(samplers.ddim(d, rough_model, SHAPE, eta=1.0, **options))
    check_close(clipped, ddpm, 1e-3)
    assert np.abs(own - ddpm).max() > 0.1


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_clipped_eps_makes_no_difference_without_clipping(prediction):
    d, x_T = process(prediction, clip=False), noises(1)[0]
    own = last(samplers.ddim(d, rough_model, SHAPE, x_T=x_T))
    clipped = last(samplers.ddim(d, rough_model, SHAPE, x_T=x_T, clipped_eps=True))
    check_close(own, clipped, 1e-3)


# --- the noise of each step ----------------------------------------------------------------------


def sigmas(run_with):
    """Return sigma of each step: the change of x if that step's z is 1 instead of 0."""
    one, zero = np.ones((1, 1, 1, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    without = list(run_with(lambda i: zero))
    with_noise = [
        list(run_with(lambda i, j=j: one if i == j else zero)) for j in range(len(without))
    ]
    return [(with_noise[j][j].x - without[j].x).item() for j in range(len(without))]


EXPECTED_SIGMA = {
    "posterior": lambda beta, prev, ac: math.sqrt(beta * (1 - prev) / (1 - ac)),
    "beta": lambda beta, prev, ac: math.sqrt(beta) if prev < 1 else 0.0,
}


@pytest.mark.parametrize(
    ("sampler", "variance", "options", "expected"),
    [
        (samplers.ddpm, "fixed_small", {}, "posterior"),
        (samplers.ddpm, "fixed_large", {}, "beta"),
        (samplers.ddim, "fixed_small", {"eta": 1.0}, "posterior"),
        (samplers.ddim, "fixed_large", {"eta": 1.0}, "posterior"),  # DDIM ignores the variance
    ],
)
def test_sigma_of_each_step(sampler, variance, options, expected):
    betas, shape = cosine(12), (1, 1, 1, 1)
    ac = [1.0, *alphas_cumprod(betas)]
    d, x_T = process("x0", variance), np.zeros(shape, np.float32)
    found = sigmas(lambda z: sampler(d, lambda x, t: 0 * x, shape, x_T=x_T, noise=z, **options))
    formula = EXPECTED_SIGMA[expected]
    formula_values = [formula(betas[t], ac[t], ac[t + 1]) for t in reversed(range(12))]
    np.testing.assert_allclose(found, formula_values, rtol=1e-5)
    assert found[-1] == 0


def test_sigma_is_proportional_to_eta():
    d, x_T = process("x0"), np.zeros((1, 1, 1, 1), np.float32)

    def found(eta):
        return np.array(
            sigmas(
                lambda z: samplers.ddim(
                    d, lambda x, t: 0 * x, (1, 1, 1, 1), eta=eta, x_T=x_T, noise=z
                )
            )
        )

    np.testing.assert_allclose(found(0.25), 0.25 * found(1.0), rtol=1e-5)
    np.testing.assert_array_equal(found(0.0), 0)
