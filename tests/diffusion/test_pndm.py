"""PNDM, on data whose probability flow is known in closed form."""

import itertools
import math

import numpy as np
import pytest
from sampler_models import SHAPE, noises, rough_model
from test_dpm_solver import exact_flow, perfect_model

from minddpm import GaussianDiffusion, backend, samplers
from minddpm.diffusion.sampling.pndm import MULTISTEP
from minddpm.diffusion.schedules import cosine


def error(n, **options):
    """Return the largest distance from the flow after n steps of equal length in sigma / alpha.

    In y = x / alpha and r = sigma / alpha the flow is dy/dr = eps, and DDIM's step is Euler's.
    """
    r = np.linspace(0.2, 4.2, 2 * n + 1)  # every second one is visited
    ac = 1 / (1 + r**2)
    d = GaussianDiffusion(1 - ac / np.append(1.0, ac[:-1]), clip_x0=False)
    levels = [(t, ac[t], ac[t - 2]) for t in range(2 * n, 0, -2)]
    x_T = noises(1)[0].astype(float)
    *_, step = samplers.pndm(
        d, perfect_model(d), SHAPE, x_T=x_T, spacing=lambda *_: levels, **options
    )
    return float(abs(step.x - exact_flow(x_T, ac[-1], ac[0])).max())


@pytest.mark.parametrize("runge_kutta", [True, False])
def test_the_error_falls_with_the_fourth_power(runge_kutta):
    """More steps than these meet the rounding errors of float32."""
    errors = [error(n, runge_kutta=runge_kutta) for n in (12, 24, 48)]
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert orders[-1] > 4, errors
    assert errors[-1] < 2e-4


@pytest.mark.parametrize("weights", MULTISTEP)
def test_the_weights_integrate_polynomials(weights):
    """From values at 0, -1, -2, ... they give the integral over 0 .. 1, which is 1 / (k + 1)."""
    for k in range(len(weights)):
        integral = sum(w * (-float(j)) ** k for j, w in enumerate(weights))
        assert integral == pytest.approx(1 / (k + 1), rel=1e-12)


@pytest.mark.parametrize("runge_kutta", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 3, 4, 6])
def test_few_steps_use_fewer_outputs(any_backend, steps, runge_kutta):
    """Also fewer than the four that the weights are for; all steps are made."""
    d, calls = GaussianDiffusion(cosine(60)), []

    def model(x, t):
        calls.append(float(t[0]))
        return rough_model(x, t)

    drawn = list(samplers.pndm(d, model, SHAPE, steps, runge_kutta=runge_kutta))
    assert len(drawn) == steps
    extra = min(3, steps - 1) * 3 if runge_kutta else min(1, steps - 1)
    assert len(calls) == steps + extra
    assert np.isfinite(backend.to_numpy(drawn[-1].x)).all()
