"""Whole samplings whose sums diffusers' own test suite states (0.42, tests/schedulers/).

Its sample is x[n, h, w, c] = (4 (64 c + 8 h + w) + n) / 768, its model x t / (t + 1). The settings
are those of its tests, in our words: beta 1e-4 .. 0.02, T = 1000, ten steps.
"""

import numpy as np
import pytest

from minddpm import GaussianDiffusion, samplers
from minddpm.diffusion.sampling.diffusers_steps import DiffusersSteps
from minddpm.diffusion.schedules import linear

SHAPE = (4, 8, 8, 3)


def sample():
    """Return their sample, [N, H, W, C]: they count in [C, H, W, N]."""
    count = np.arange(4 * 3 * 8 * 8, dtype=np.float32) / (4 * 3 * 8 * 8)
    return count.reshape(3, 8, 8, 4).transpose(3, 1, 2, 0).copy()


def model(x, t):
    t = t.astype("float32").reshape(-1, 1, 1, 1)
    return x * t / (t + 1)


def process(prediction="epsilon", beta_start=1e-4, clip=True):
    return GaussianDiffusion(linear(1000, beta_start), prediction, clip_x0=clip)


def check(steps, total, mean):
    *_, step = steps
    assert np.abs(step.x).sum() == pytest.approx(total, abs=1e-2)
    assert np.abs(step.x).mean() == pytest.approx(mean, abs=1e-3)


CASES = [
    ("epsilon", 1e-4, "one", 172.0067, 0.223967, 671.6816, 0.8746),
    ("v", 1e-4, "one", 52.5302, 0.0684, 1394.2185, 1.8159),
    ("epsilon", 0.01, "one", 149.8295, 0.1951, 539.9622, 0.7031),
    ("epsilon", 0.01, "first", 149.0784, 0.1941, 542.6722, 0.7066),
]


@pytest.mark.parametrize(("prediction", "beta", "last", "total", "mean", "_1", "_2"), CASES)
def test_ddim(prediction, beta, last, total, mean, _1, _2):
    d, steps = process(prediction, beta), DiffusersSteps("DDIM", "leading", 0, last)
    check(samplers.ddim(d, model, SHAPE, 10, x_T=sample(), spacing=steps), total, mean)


@pytest.mark.parametrize(("prediction", "beta", "last", "_1", "_2", "total", "mean"), CASES)
def test_ddim_inversion(prediction, beta, last, _1, _2, total, mean):
    d, steps = process(prediction, beta), DiffusersSteps("DDIM", "leading", 0, last)
    inverse = samplers.invert(d, model, sample(), 10, spacing=steps, t_ahead=True)
    check(inverse, total, mean)


@pytest.mark.parametrize("order", ["2M", "2S"])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_dpm_solver(order, prediction):
    means = {"2M epsilon": 0.3301, "2M v": 0.2251, "2S epsilon": 0.2791, "2S v": 0.1453}
    d, mean = process(prediction, clip=False), means[f"{order} {prediction}"]
    spacing = DiffusersSteps("DPMSolver", "linspace", last_ac="first")
    steps = samplers.dpm_solver(d, model, SHAPE, 10, order=order, x_T=sample(), spacing=spacing)
    *_, step = steps  # for this solver they state the mean alone
    assert np.abs(step.x).mean() == pytest.approx(mean, abs=1e-3)


def test_dpm_solver_from_an_uneven_timestep():
    """Theirs leaves out the first three of 50 steps, so the fourth is of first order."""
    d = process(clip=False)
    levels = DiffusersSteps("DPMSolver", "linspace", last_ac="first")(d, 50)
    x = sample()
    for order, part in (("1", levels[3:4]), ("2S", levels[4:])):
        *_, step = samplers.dpm_solver(
            d, model, SHAPE, order=order, x_T=x, spacing=lambda *_, part=part: part
        )
        x = step.x
    assert np.abs(x).mean() == pytest.approx(0.2574, abs=1e-3)


@pytest.mark.parametrize(
    ("prediction", "beta", "last", "total", "mean"),
    [
        ("epsilon", 1e-4, "first", 198.1318, 0.2580),
        ("v", 1e-4, "first", 67.3986, 0.0878),
        ("epsilon", 0.01, "one", 230.0399, 0.2995),
        ("epsilon", 0.01, "first", 186.9482, 0.2434),
    ],
)
def test_pndm(prediction, beta, last, total, mean):
    d, steps = process(prediction, beta, clip=False), DiffusersSteps("DDIM", "leading", 0, last)
    x = sample()
    check(samplers.pndm(d, model, SHAPE, 10, runge_kutta=True, x_T=x, spacing=steps), total, mean)
