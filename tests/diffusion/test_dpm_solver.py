"""DPM-Solver and the probability flow, on data whose flow is known in closed form.

For data N(m, s^2), x_t is N(alpha m, V) with V = alpha^2 s^2 + sigma^2, and along the probability
flow (x_t - alpha m) / sqrt(V) is constant: a point moves with its quantile.
"""

import itertools
import math
import sys

import numpy as np
import pytest
from sampler_models import (
    SHAPE,
    check_close,
    noises,
    rough_model,
    rough_model_with_variance,
)

from minddpm import GaussianDiffusion, backend, samplers
from minddpm.diffusion.schedules import cosine, linear
from refusals import refused

M, S = 0.3, 0.5
SECOND = {
    "2M": lambda *a, **k: samplers.dpm_solver(*a, order="2M", **k),
    "2S": lambda *a, **k: samplers.dpm_solver(*a, order="2S", **k),
    "Heun": samplers.probability_flow,
}
FIRST = {
    "1": lambda *a, **k: samplers.dpm_solver(*a, order="1", **k),
    "DDIM": samplers.ddim,
}
FLOWS = {**FIRST, **SECOND, "adaptive": samplers.probability_flow_adaptive}
EVERY = {**FLOWS, "SDE": lambda *a, **k: samplers.dpm_solver(*a, order="SDE", **k)}


def even(n, top=4.0):
    """Return a process of n timesteps even in lambda = log(alpha / sigma), from -top to top."""
    ac = 1 / (1 + np.exp(-2 * np.linspace(top, -top, n)))
    betas = 1 - ac / np.append(1.0, ac[:-1])
    return GaussianDiffusion(betas, clip_x0=False)


def perfect_model(d):
    """Return the model E[eps | x_t] = sigma / V (x - alpha m), for any real t."""
    level = np.log(1 / d.alphas_cumprod - 1)

    def model(x, t):
        t = backend.to_numpy(t).astype(float)
        ac = 1 / (1 + np.exp(np.interp(t, np.arange(d.T), level)))
        ac = backend.xp.asarray(ac.astype("float32")).reshape(-1, 1, 1, 1)
        return (1 - ac) ** 0.5 / (ac * S**2 + 1 - ac) * (x - ac**0.5 * M)

    return model


def exact_flow(x_T, ac_from, ac_to):
    """Return where the flow moves x_T."""
    spread = [math.sqrt(ac * S**2 + 1 - ac) for ac in (ac_from, ac_to)]
    return math.sqrt(ac_to) * M + spread[1] / spread[0] * (x_T - math.sqrt(ac_from) * M)


def error(sampler, n):
    """Return the largest distance from the flow at lambda = 4, one step before the sample."""
    d, x_T = even(n), noises(1)[0].astype(float)
    *_, step, _ = sampler(d, perfect_model(d), SHAPE, x_T=x_T)
    exact = exact_flow(x_T, d.alphas_cumprod[-1], d.alphas_cumprod[0])
    return float(abs(step.x - exact).max())


# --- order ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "order"), [*((name, 1) for name in FIRST), *((name, 2) for name in SECOND)]
)
def test_the_error_falls_with_the_order(name, order):
    """With twice as many steps the error is a half or a quarter."""
    errors = [error(EVERY[name], n) for n in (21, 41, 81, 161)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] == pytest.approx(order, abs=0.2), errors
    assert errors[-1] < (0.03 if order == 1 else 0.0015)


@pytest.mark.parametrize(("name", "ratio"), [("2M", 0.5), ("2S", 0.75)])
def test_steps_even_in_lambda_have_a_smaller_error_than_steps_even_in_t(name, ratio):
    d = GaussianDiffusion(linear(1000), clip_x0=False)
    x_T = noises(1)[0].astype(float)
    exact = exact_flow(x_T, d.alphas_cumprod[-1], 1.0)
    errors_by_spacing = {}
    for spacing in ("linspace", "log_snr"):
        *_, step = EVERY[name](d, perfect_model(d), SHAPE, 20, x_T=x_T, spacing=spacing)
        errors_by_spacing[spacing] = float(abs(step.x - exact).max())
    assert errors_by_spacing["log_snr"] < ratio * errors_by_spacing["linspace"], errors_by_spacing


def test_the_adaptive_solver_meets_its_tolerance():
    d, x_T = even(1000), noises(1)[0]
    exact = exact_flow(x_T, d.alphas_cumprod[-1], d.alphas_cumprod[0])
    count = {}
    for rtol in (1e-2, 1e-4):
        steps = list(
            samplers.probability_flow_adaptive(d, perfect_model(d), SHAPE, x_T=x_T, rtol=rtol)
        )
        assert abs(steps[-2].x - exact).max() < 20 * rtol
        assert [s.t for s in steps] == sorted((s.t for s in steps), reverse=True)
        count[rtol] = len(steps)
    assert count[1e-2] < count[1e-4] < 100


@pytest.mark.parametrize("name", FLOWS)
def test_all_flows_end_in_the_same_sample(any_backend, name):
    """With clipping and with a last step to no noise."""
    d, x_T = GaussianDiffusion(cosine(400)), noises(1)[0]
    *_, step = EVERY[name](d, perfect_model(d), SHAPE, 400, x_T=x_T)
    *_, expected = samplers.ddim(d, perfect_model(d), SHAPE, 400, x_T=x_T)
    tolerance = 0.02
    assert float(abs(step.x - expected.x).max()) < tolerance
    assert step.t == 0


# --- against the papers' algorithms --------------------------------------------------------------


def levels(d):
    """Return alpha, sigma and lambda at t = T-1 .. 0 and at the sample."""
    ac = [*d.alphas_cumprod[::-1].tolist(), 1.0]
    alpha, sigma = [math.sqrt(a) for a in ac], [math.sqrt(1 - a) for a in ac]
    lam = [math.log(a / s) if s else math.inf for a, s in zip(alpha, sigma, strict=True)]
    return alpha, sigma, lam


def pred_x0_at(d, x, i):
    """Return the model's clipped pred_x0 for x at step i."""
    t = d.T - 1 - i
    output = rough_model(x, backend.xp.asarray([t] * len(x)))
    return d.predict_x0(x, np.full(len(x), t), output).clip(-1, 1)


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_2m_is_algorithm_2(any_backend, prediction):
    d, (x,) = GaussianDiffusion(cosine(9), prediction), noises(1)
    alpha, sigma, lam = levels(d)
    predictions = []
    for i, step in enumerate(samplers.dpm_solver(d, rough_model, SHAPE, x_T=x)):
        predictions.append(pred_x0_at(d, x, i))
        D, h = predictions[-1], lam[i + 1] - lam[i]
        if 0 < i < 8:
            r = (lam[i] - lam[i - 1]) / h
            D = (1 + 1 / (2 * r)) * predictions[-1] - 1 / (2 * r) * predictions[-2]
        x = sigma[i + 1] / sigma[i] * x - alpha[i + 1] * (math.exp(-h) - 1) * D
        check_close(step.x, x, 3e-5)
        check_close(step.pred_x0, predictions[-1])
        x = step.x


@pytest.mark.parametrize("T", [8, 9])
def test_2s_is_algorithm_1(any_backend, T):
    """Pairs of steps from the start; an odd step and the step to the sample are DDIM."""
    d, (x,) = GaussianDiffusion(cosine(T)), noises(1)
    alpha, sigma, lam = levels(d)

    def ddim_step(x, x0, i, j):
        return sigma[j] / sigma[i] * x - alpha[j] * (math.exp(lam[i] - lam[j]) - 1) * x0

    steps = list(samplers.dpm_solver(d, rough_model, SHAPE, x_T=x, order="2S"))
    i = 0
    while i < T:
        x0 = pred_x0_at(d, x, i)
        u = ddim_step(x, x0, i, i + 1)
        check_close(steps[i].x, u, 3e-5)
        if i + 2 <= T and math.isfinite(lam[i + 2]):
            h = lam[i + 2] - lam[i]
            r = (lam[i + 1] - lam[i]) / h
            x0_u = pred_x0_at(d, u, i + 1)
            D = (1 - 1 / (2 * r)) * x0 + 1 / (2 * r) * x0_u
            x = sigma[i + 2] / sigma[i] * x - alpha[i + 2] * (math.exp(-h) - 1) * D
            check_close(steps[i + 1].x, x, 1e-4)
            i += 2
        else:
            x, i = u, i + 1


def test_the_sde_solver_is_its_formula(any_backend):
    d, (x, *z) = GaussianDiffusion(cosine(9)), noises(10)
    alpha, sigma, lam = levels(d)
    given = z.__getitem__
    predictions = []
    for i, step in enumerate(
        samplers.dpm_solver(d, rough_model, SHAPE, x_T=x, order="SDE", noise=given)
    ):
        predictions.append(pred_x0_at(d, x, i))
        D, h = predictions[-1], lam[i + 1] - lam[i]
        if 0 < i < 8:
            D = D + (predictions[-1] - predictions[-2]) * h / (2 * (lam[i] - lam[i - 1]))
        x = sigma[i + 1] / sigma[i] * math.exp(-h) * x + alpha[i + 1] * (1 - math.exp(-2 * h)) * D
        x = x + sigma[i + 1] * math.sqrt(1 - math.exp(-2 * h)) * z[i]
        check_close(step.x, x, 3e-5)
        check_close(step.pred_x0, predictions[-1])
        x = step.x


def test_the_sde_solver_without_its_slope_is_ddpm(any_backend):
    """The first and the last step use no slope."""
    d = GaussianDiffusion(cosine(2))
    runs = (
        samplers.dpm_solver(d, rough_model, SHAPE, order="SDE", seed=5),
        samplers.ddpm(d, rough_model, SHAPE, seed=5),
    )
    for one, other in zip(*runs, strict=True):
        check_close(one.x, other.x)


def spread(sampler, n):
    """Return the standard deviation at lambda = 4 of a sampler's result for x_T from N(0, I).

    With a perfect model a sampler is linear in x_T and in the noise of each step: a run in which
    one of them is 1 and the others are 0 gives its coefficient.
    """
    d, shape = even(n), (n + 1, 1, 1, 1)
    inputs = np.eye(n + 1, dtype=np.float32).reshape(n + 1, *shape)  # the last run has none
    *_, step, _ = sampler(
        d, perfect_model(d), shape, x_T=inputs[0], noise=lambda i: inputs[min(i + 1, n - 1)]
    )
    parts = step.x[:-1].ravel().astype(float) - float(step.x[-1, 0, 0, 0])
    return math.sqrt((parts**2).sum())


def test_the_sde_solver_has_less_than_half_of_ddpms_error_in_the_standard_deviation():
    d = even(2)
    exact = math.sqrt(d.alphas_cumprod[0] * S**2 + 1 - d.alphas_cumprod[0])
    for n in (21, 41):
        error = abs(spread(EVERY["SDE"], n) - exact)
        assert error < 0.5 * abs(spread(samplers.ddpm, n) - exact)
        assert error < 0.02


def test_order_1_is_ddim(any_backend):
    d, (x,) = GaussianDiffusion(cosine(9)), noises(1)
    runs = (
        samplers.dpm_solver(d, rough_model, SHAPE, x_T=x, order="1"),
        samplers.ddim(d, rough_model, SHAPE, x_T=x, clipped_eps=True),
    )
    for one, other in zip(*runs, strict=True):
        check_close(one.x, other.x)


def test_heun_is_the_mean_of_two_slopes(any_backend):
    d, (x,) = GaussianDiffusion(cosine(6)), noises(1)
    alpha, sigma, _ = levels(d)
    for i, step in enumerate(samplers.probability_flow(d, rough_model, SHAPE, x_T=x)):

        def eps(x, i):
            return (x - alpha[i] * pred_x0_at(d, x, i)) / sigma[i]

        d_rho = sigma[i + 1] / alpha[i + 1] - sigma[i] / alpha[i]
        first = eps(x, i)
        euler = alpha[i + 1] * (x / alpha[i] + d_rho * first)
        if i < 5:
            second = eps(euler, i + 1)
            euler = alpha[i + 1] * (x / alpha[i] + d_rho * (first + second) / 2)
        check_close(step.x, euler, 3e-5)
        check_close(step.pred_x0, pred_x0_at(d, x, i))
        x = step.x


# --- inversion -----------------------------------------------------------------------------------


def test_ddim_reconstructs_an_image_from_its_inversion(any_backend):
    d = GaussianDiffusion(linear(1000), clip_x0=False)
    model, x0 = perfect_model(d), 0.3 * noises(1)[0] + 0.2
    error_by_steps = {}
    for steps in (50, 500):
        *_, noisy = samplers.invert(d, model, x0, steps)
        *_, step = samplers.ddim(d, model, SHAPE, steps, x_T=noisy.x)
        error_by_steps[steps] = float(abs(step.x - x0).max())
        assert noisy.t == d.T // steps * (steps - 1)
    assert error_by_steps[500] < error_by_steps[50] / 4
    assert error_by_steps[500] < 0.02
    exact = exact_flow(x0, 1.0, d.alphas_cumprod[998])
    assert float(abs(noisy.x - exact).max()) < 0.05


# --- all solvers ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["2M", "2S", "SDE", "Heun", "adaptive"])
def test_a_learned_variance_is_ignored(name):
    learned = GaussianDiffusion(cosine(12), variance="learned_range")
    x = noises(1)[0]
    *_, step = EVERY[name](learned, rough_model_with_variance, SHAPE, x_T=x)
    *_, expected = EVERY[name](GaussianDiffusion(cosine(12)), rough_model, SHAPE, x_T=x)
    np.testing.assert_array_equal(step.x, expected.x)


@pytest.mark.parametrize("name", ["2M", "2S", "SDE", "Heun"])
def test_a_batch_may_be_sampled_in_parts(name):
    d = GaussianDiffusion(cosine(12))
    *_, batch = EVERY[name](d, rough_model, SHAPE, 5, seed=3)
    *_, part = EVERY[name](d, rough_model, (1, *SHAPE[1:]), 5, seed=3, first=64)
    np.testing.assert_array_equal(part.x[0], batch.x[1])


@pytest.mark.parametrize("name", ["2M", "2S", "SDE", "Heun"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_very_few_steps(name, steps):
    d = GaussianDiffusion(cosine(12))
    yielded = list(EVERY[name](d, rough_model, SHAPE, steps))
    assert len(yielded) == steps
    assert np.isfinite(yielded[-1].x).all()
    # no noise is left in x
    np.testing.assert_allclose(yielded[-1].x, yielded[-1].pred_x0, atol=1e-6)


def test_bad_input_is_refused(monkeypatch):
    d = GaussianDiffusion(cosine(12))
    with refused("'3M'", "2M"):
        samplers.dpm_solver(d, rough_model, SHAPE, order="3M")
    for name in ("2M", "Heun"):
        with refused("13", "1 .. 12"):
            next(EVERY[name](d, rough_model, SHAPE, 13))
    with refused("x_T"):
        next(samplers.probability_flow(d, rough_model, SHAPE, x_T=np.zeros((1, 2), np.float32)))
    monkeypatch.setitem(sys.modules, "scipy.integrate", None)
    with refused("SciPy", "pip install scipy", "probability_flow"):
        next(samplers.probability_flow_adaptive(d, rough_model, SHAPE))
