"""The kernels of lookups and of the mean squared error."""

import numpy as np
import pytest
from builders import draw
from kernel_checks import check, check_equal, device

from minddpm import backend


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("N", [0, 1, 7])
def test_take(any_backend, dtype, N):
    table = np.linspace(-1, 1, 50) * 1000
    table = table.astype(np.int64) if dtype == "int64" else table
    t = (13 * np.arange(N) + 49) % 50
    for source in (table, table[::-1]):
        values = backend.kernels.take(backend.xp, source, t, dtype)
        assert values.dtype == dtype
        check_equal([values], [np.array([source[i] for i in t], dtype)])


@pytest.mark.parametrize(("R", "C", "N"), [(1, 1, 1), (3, 5, 7), (11, 128, 128), (4, 33, 0)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_take_rows(any_backend, R, C, N, kind):
    weight, gy = (a.astype(kind) for a in draw(R, (R, C), (N, C)))
    index = (7 * np.arange(N) + R - 1) % R
    (w, g), (i,) = device(weight, gy), device(index)
    check_equal([backend.kernels.take_rows(w, i)], [weight[index]])
    expected = np.zeros((R, C))
    for n in range(N):
        expected[index[n]] += gy[n]
    check(backend.kernels.take_rows_backward(g, i, R), expected)


@pytest.mark.parametrize("shape", [(1, 1), (3, 5, 7, 1), (2, 28, 28, 3), (130, 3)])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_mean_squared_errors(any_backend, shape, kind):
    x, target = (a.astype(kind) for a in draw(0, shape, shape))
    gy = draw(1, shape[:1])[0].astype(kind)
    errors, gx = np.zeros(shape[0]), np.zeros(shape)
    for n in range(shape[0]):
        differences = (x[n].astype(float) - target[n]).reshape(-1)
        errors[n] = sum(d * d for d in differences) / len(differences)
        gx[n] = (2 * gy[n] / len(differences)) * differences.reshape(shape[1:])
    a, b, g = device(x, target, gy)
    result = backend.kernels.mean_squared_errors(a, b)
    assert result.dtype == kind
    check(result, errors, 1e-6)
    gradient = backend.kernels.mean_squared_errors_backward(g, a, b)
    check(gradient * shape[0], gx * shape[0], 1e-6)


def test_a_slice_of_channels_is_compared(any_backend):
    """The model's output with a learned variance has more channels."""
    output, target = device(*draw(0, (2, 3, 3, 2), (2, 3, 3, 1)))
    errors = backend.kernels.mean_squared_errors(output[..., :1], target)
    expected = ((output[..., :1] - target) ** 2).reshape(2, -1).mean(axis=1)
    check(errors, backend.to_numpy(expected), 1e-6)
