"""Muon's kernel: what it does to singular values, against NumPy's decomposition in float64."""

import numpy as np
import pytest
from builders import draw
from kernel_checks import check, check_equal, device

import naive
from minddpm import backend

# Rows and columns of matrices in one buffer, with unused numbers between them.
SHAPES = {
    "one": [(64, 64)],
    "a number": [(1, 1)],
    "several": [(70, 66), (17, 130), (1, 5), (9, 1), (33, 33)],
    "tall": [(300, 20), (576, 32)],
    "many": [(3, 4)] * 40,  # more than a task of the CPU has pieces
}
NUMBERS = (0.9, 0.95, 0.1, 0.7)  # lr, beta, weight_decay, grad_scale
TOLERANCE = 2e-5  # a random square matrix has small singular values, which grow by 3.4445^5 = 485


def layout_of(shapes, gap=3):
    """Return the layout of matrices with a gap before each and after all, and the buffer's size."""
    starts = np.cumsum([gap] + [rows * columns + gap for rows, columns in shapes])
    lines = [(start, *shape) for start, shape in zip(starts, shapes, strict=False)]
    return np.array(lines, np.int64).reshape(-1, 3), starts[-1]


def arrays_of(shapes, seed=0):
    """Return a layout, and random arrays: param, grad, momentum, average."""
    layout, size = layout_of(shapes)
    return layout, draw(seed, *[(size,)] * 4)


def orthogonal(matrix):
    """Return the matrix that the kernel makes of a gradient, without momentum."""
    layout = np.array([(0, *matrix.shape)])
    lr = -1 / (0.2 * max(matrix.shape) ** 0.5)
    param, momentum = backend.xp.zeros((2, matrix.size), "float32")
    (grad,) = device(matrix.astype(np.float32).ravel())
    backend.kernels.muon(param, grad, momentum, None, layout, lr, 0.0, 0.0, 1.0, 0.0)
    return backend.to_numpy(param).reshape(matrix.shape)


def singular(rows, columns, low, seed=0):
    """Return U, s and V^T: random singular vectors, singular values from 1 down to `low`."""
    rank = min(rows, columns)
    U, V = (np.linalg.qr(x.astype(float))[0] for x in draw(seed, (rows, rank), (columns, rank)))
    return U, np.geomspace(1, low, rank), V.T


@pytest.mark.parametrize("shapes", SHAPES)
def test_a_step(any_backend, shapes):
    """Numbers between the matrices do not change, nor does the gradient."""
    layout, (param, grad, momentum, _) = arrays_of(SHAPES[shapes])
    expected = naive.muon(param, grad, momentum, layout, *NUMBERS)
    before = grad.copy()
    outside = np.ones(param.size, bool)
    for start, rows, columns in layout:
        outside[start : start + rows * columns] = False
    results = device(param.copy(), grad, momentum.copy())
    backend.kernels.muon(*results, None, layout, *NUMBERS, 0.0)
    check(results[0], expected[0], TOLERANCE)
    check(results[2], expected[1], 1e-6)
    assert outside.sum() == 3 * (len(layout) + 1)
    for result, value in zip(results, (param, before, momentum), strict=True):
        np.testing.assert_array_equal(backend.to_numpy(result)[outside], value[outside])
    check_equal(results[1:2], [before])


@pytest.mark.parametrize("shape", [(64, 64), (40, 90), (90, 40)])
def test_singular_vectors_stay_and_singular_values_become_nearly_one(any_backend, shape):
    U, s, Vt = singular(*shape, 0.1)
    result = orthogonal((U * s) @ Vt)
    inner = U.T @ result @ Vt.T
    found = np.diag(inner)
    assert np.abs(inner - np.diag(found)).max() < 1e-4
    assert found.min() > 0.6
    assert found.max() < 1.3
    assert found.max() / found.min() < 2 < s[0] / s[-1]


def test_the_size_of_a_gradient_does_not_matter(any_backend):
    U, s, Vt = singular(20, 35, 0.1)
    one = orthogonal((U * s) @ Vt)
    for factor in (1e-4, 1e4):
        check(orthogonal(factor * (U * s) @ Vt), one, 2e-3 if factor < 1 else 1e-5)


def test_a_gradient_of_zeros(any_backend):
    """Weights decay, and nothing is divided by zero."""
    layout, (param, _, _, average) = arrays_of(SHAPES["several"])
    zeros = np.zeros_like(param)
    result, momentum, average = device(param.copy(), zeros.copy(), average)
    backend.kernels.muon(result, *device(zeros), momentum, average, layout, *NUMBERS, 0.5)
    part = slice(layout[0, 0], layout[0, 0] + layout[0, 1:].prod())
    check(result[part], (1 - 0.9 * 0.1) * param[part].astype(float), 1e-6)
    assert not backend.to_numpy(momentum).any()
    assert np.isfinite(backend.to_numpy(average)).all()


def test_with_an_average_it_equals_a_step_and_then_an_update(any_backend):
    layout, arrays = arrays_of([(20, 33), (33, 20)])
    fused, separate = device(*(a.copy() for a in arrays)), device(*(a.copy() for a in arrays))
    backend.kernels.muon(*fused, layout, *NUMBERS, 0.9)
    backend.kernels.muon(*separate[:3], None, layout, *NUMBERS, 0.9)
    for start, rows, columns in layout:
        part = slice(start, start + rows * columns)
        backend.kernels.ema(separate[3][part], separate[0][part], 0.9)
    check_equal(fused, separate)


@pytest.mark.parametrize("kind", [float, lambda x: backend.xp.asarray(x, "float32")])
@pytest.mark.parametrize("scale", [np.nan, np.inf, -np.inf])
def test_a_scale_that_is_not_finite_changes_nothing(any_backend, scale, kind):
    layout, arrays = arrays_of([(20, 33)])
    results = device(*(a.copy() for a in arrays))
    backend.kernels.muon(*results, layout, 0.9, 0.95, 0.1, kind(scale), 0.9)
    check_equal(results, arrays)


def test_numbers_may_be_arrays(any_backend):
    """In a replay they are."""
    results = []
    for kind in (float, lambda x: backend.xp.asarray(x, "float64")):
        layout, arrays = arrays_of([(20, 33)])
        arrays = device(*arrays)
        lr, scale, decay = map(kind, (0.9, 0.5, 0.9))
        scale = scale if kind is float else scale.astype("float32")
        backend.kernels.muon(*arrays, layout, lr, 0.95, 0.1, scale, decay)
        results.append([backend.to_numpy(a) for a in arrays])
    for one, other in zip(*results, strict=True):
        check(one, other, 1e-6)


def test_no_matrix(any_backend):
    layout, arrays = arrays_of([])
    results = device(*(a.copy() for a in arrays))
    backend.kernels.muon(*results, layout, *NUMBERS, 0.9)
    check_equal(results, arrays)


def test_float64(any_backend):
    """Other types go to the reference."""
    layout, arrays = arrays_of([(9, 5)])
    param, grad, momentum = (a.astype(float) for a in arrays[:3])
    expected = naive.muon(param, grad, momentum, layout, *NUMBERS)
    results = device(param, grad, momentum)
    backend.kernels.muon(*results, None, layout, *NUMBERS, 0.0)
    check(results[0], expected[0], 1e-12)
