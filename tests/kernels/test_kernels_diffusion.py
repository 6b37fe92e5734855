"""The kernels of noising and of the reverse step, and replay."""

import numpy as np
import pytest
from builders import draw
from kernel_checks import check, check_equal, device

from minddpm import backend
from minddpm.gpucheck.cases import four_calls


def test_q_sample_has_one_pair_of_coefficients_per_image(any_backend):
    x0, noise, a, b = draw(0, (3, 2, 2, 1), (3, 2, 2, 1), (3,), (3,))
    expected = np.stack([a[n] * x0[n] + b[n] * noise[n] for n in range(3)])
    check(backend.kernels.q_sample(*device(x0, noise, a, b)), expected)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_sampler_step(any_backend, clip, sigma):
    x_t, output, noise = draw(0, *[(2, 3, 3, 1)] * 3)
    px, po, k0, kx, ko = 1.5, -0.9, 0.3, 0.6, 0.2
    pred_x0 = px * x_t + po * output
    assert (np.abs(pred_x0) > 1).any()
    if clip:
        pred_x0 = np.clip(pred_x0, -1, 1)
    x_prev = k0 * pred_x0 + kx * x_t + ko * output + sigma * noise
    z = None if sigma == 0 else noise
    arrays = [None if a is None else backend.xp.asarray(a) for a in (x_t, output, z)]
    result = backend.kernels.sampler_step(*arrays, (px, po, k0, kx, ko, sigma), clip)
    check(result[0], x_prev)
    check(result[1], pred_x0)


SHAPES = [(1, 1), (3, 5, 7, 1), (2, 28, 28, 1), (3, 33, 33, 3), (1500, 1, 1, 1)]


@pytest.mark.parametrize("first", [0, 1, 2, 3, 2**34 + 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_q_sample_normal_equals_random_normal_then_q_sample(any_backend, shape, first):
    k, key = backend.kernels, (4, 5, 6, first)
    x0, a, b = device(*draw(0, shape, shape[:1], shape[:1]))
    z = k.random_normal(backend.xp, x0.size, *key).reshape(shape)
    check_equal(k.q_sample_normal(x0, a, b, *key), (k.q_sample(x0, z, a, b), z))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("first", [0, 1, 2, 3, 2**34 + 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_sampler_step_normal_equals_random_normal_then_sampler_step(
    any_backend, shape, first, clip
):
    k, key, coefficients = (
        backend.kernels,
        (4, 5, 2**33 + 6, first),
        (1.5, -0.9, 0.3, 0.6, 0.2, 0.7),
    )
    x_t, output = device(*draw(0, shape, shape))
    z = k.random_normal(backend.xp, x_t.size, *key).reshape(shape)
    expected = k.sampler_step(x_t, output, z, coefficients, clip)
    check_equal(k.sampler_step_normal(x_t, output, coefficients, clip, *key), expected)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2, 5)])
def test_a_replayed_function_returns_what_the_eager_one_returns(any_backend, shape):
    (x,) = device(*draw(0, shape))
    calls = [four_calls(backend.kernels, x, replay=replay) for replay in (False, True)]
    assert len(calls[0]) == 4
    for result, expected in zip(*calls, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(result), backend.to_numpy(expected))
    check_equal([x], draw(0, shape))  # x is not written to
