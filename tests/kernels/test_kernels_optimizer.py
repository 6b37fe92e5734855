"""The kernels of the optimiser: Adam, the moving average and the norm of the gradient."""

import numpy as np
import pytest
from builders import draw
from kernel_checks import check, device

import naive
from minddpm import backend


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("step", [1, 7, 5000])
def test_adam(any_backend, weight_decay, step):
    param, grad, m, v = draw(step, *[(50,)] * 4)
    v = np.abs(v)
    options = (step, 1e-2, 0.9, 0.999, 1e-8, weight_decay, 0.5)
    expected = naive.adam(param, grad, m, v, *options)
    param, grad, m, v = device(param, grad, m, v)
    before = grad.copy()
    backend.kernels.adam(param, grad, m, v, None, *options, 0.0)
    for result, value in zip((param, m, v), expected, strict=True):
        check(result, value)
    assert (grad == before).all()


@pytest.mark.parametrize("size", [1, 7, 33, 5000])
def test_adam_with_an_average_equals_adam_then_ema(any_backend, size):
    arrays = draw(size, *[(size,)] * 5)
    arrays[3] = np.abs(arrays[3])
    options = (3, 1e-2, 0.9, 0.999, 1e-8, 0.1, 0.5)
    fused, separate = device(*(a.copy() for a in arrays)), device(*(a.copy() for a in arrays))
    backend.kernels.adam(*fused, *options, 0.9)
    param, _, _, _, average = separate
    backend.kernels.adam(*separate[:4], None, *options, 0.9)
    backend.kernels.ema(average, param, 0.9)
    for one, other in zip(fused, separate, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(one), backend.to_numpy(other))
    check(average, 0.9 * arrays[4].astype(float) + 0.1 * backend.to_numpy(param))


@pytest.mark.parametrize("size", [1, 5, 16383, 16384, 100_003])
def test_squared_norm(any_backend, size):
    (x,) = draw(size, (size,))
    square = backend.kernels.squared_norm(*device(x)).item()
    assert square == pytest.approx((x.astype(float) ** 2).sum(), rel=1e-6)
    for i in (0, size // 2, size - 1):
        x[i] = np.nan
        assert np.isnan(backend.kernels.squared_norm(*device(x)).item())
        x[i] = 0


def test_ema(any_backend):
    average, param = draw(0, (50,), (50,))
    expected = 0.9 * average.astype(float) + 0.1 * param
    (average, param) = device(average, param)
    backend.kernels.ema(average, param, 0.9)
    check(average, expected)


@pytest.mark.parametrize("size", [1, 33, 100_003])
def test_set_to_zero(any_backend, size):
    (x,) = device(*draw(0, (size + 2,)))
    ends = x[0].item(), x[-1].item()
    backend.kernels.set_to_zero(x[1:-1])
    assert (x[0].item(), x[-1].item()) == ends
    assert not backend.to_numpy(x)[1:-1].any()


def test_adam_takes_numbers_or_arrays(any_backend):
    """In a replay the numbers come in arrays. (NumPy rounds less with float64 arrays.)"""
    results = []
    for kind in (float, lambda number: backend.xp.asarray(number, "float64")):
        arrays = device(*draw(1, *[(5000,)] * 5))
        arrays[3] = abs(arrays[3])
        step, lr, scale, decay = map(kind, (7, 1e-2, 1.0, 0.9))
        scale = backend.xp.asarray(scale, "float32") if kind is not float else scale
        backend.kernels.adam(*arrays, step, lr, 0.9, 0.999, 1e-8, 0.1, scale, decay)
        results.append([backend.to_numpy(a) for a in arrays])
    for one, other in zip(*results, strict=True):
        check(one, other, 2e-7)
