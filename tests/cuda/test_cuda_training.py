"""The kernels that only training needs, and what a recorded training step reads on the device."""

import numpy as np
import pytest
from cuda_checks import check, check_kernel, draw, few_examples, in_every_order, needs_compiler
from hypothesis import given
from hypothesis import strategies as st

from minddpm.kernels import cuda, reference
from minddpm.kernels.cuda import recorder
from minddpm.kernels.cuda.linear import LAYERS
from minddpm.kernels.cuda.muon import MATRICES
from minddpm.kernels.cuda.pointwise import PAIRS
from minddpm.kernels.emulator import cupy_on_cpu

pytestmark = [needs_compiler, pytest.mark.usefixtures("emulated_kernels")]


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_take(dtype):
    table = 3 * np.arange(50) if dtype == "int64" else np.linspace(0, 1, 50) ** 2
    t = np.array([49, 0, 7, 7])
    (values,) = in_every_order(lambda t: cuda.take(cupy_on_cpu, table, t, dtype), t)
    np.testing.assert_array_equal(values, table[t].astype(dtype))


@pytest.mark.parametrize(("R", "C", "N"), [(1, 1, 1), (5, 33, 20)])
def test_take_rows(R, C, N):
    weight, gy = draw(0, (R, C), (N, C))
    index = (7 * np.arange(N) + R - 1) % R
    (rows,) = in_every_order(cuda.take_rows, weight, index)
    np.testing.assert_array_equal(rows, weight[index])
    (gw,) = in_every_order(lambda gy, index: cuda.take_rows_backward(gy, index, R), gy, index)
    check(gw, reference.take_rows_backward(gy.astype(float), index, R))


@few_examples
@given(N=st.integers(1, 3), P=st.integers(1, 700))
def test_mean_squared_errors(N, P):
    x, target, gy = draw(0, (N, P), (N, P), N)
    check_kernel("mean_squared_errors", x, target)
    check_kernel("mean_squared_errors_backward", gy, x, target)


def test_adam_reads_what_changes_on_the_device():
    """The bits are those of numbers that are passed by value."""
    param, grad, m, v, average = draw(0, 300, 300, 300, 300, 300)
    step, lr, scale, decay = (
        np.array(3.0),
        np.array(1e-3),
        np.array(0.7, np.float32),
        np.array(0.95),
    )

    def updated(param, grad, m, v, average, step, lr, scale, decay):
        cuda.adam(param, grad, m, v, average, step, lr, 0.9, 0.99, 1e-8, 0.02, scale, decay)
        return param, m, v, average

    arrays = (param, grad, m, np.abs(v), average)
    numbers = [number.item() for number in (step, lr, scale, decay)]
    by_value = in_every_order(lambda *arrays: updated(*arrays, *numbers), *arrays)
    on_device = in_every_order(updated, *arrays, step, lr, scale, decay)
    for one, other in zip(by_value, on_device, strict=True):
        np.testing.assert_array_equal(one, other)


# Rows and columns: several tiles and none complete, a single tile, a column, a number, wide ones.
MUON_SHAPES = ((70, 66), (64, 64), (9, 1), (1, 1), (17, 130), (1, 5))
MUON = (0.9, 0.95, 0.1, 0.7, 0.9)  # lr, beta, weight_decay, grad_scale, ema_decay


def stepped(kernels, layout, averaged=True):
    """Return a function that takes a step of Muon and returns what it changed."""

    def run(param, grad, momentum, average, lr, beta, weight_decay, scale, decay):
        changed = [a.copy() for a in (param, momentum, average)]
        average = changed[2] if averaged else None
        numbers = lr, beta, weight_decay, scale, decay
        kernels.muon(changed[0], grad, changed[1], average, layout, *numbers)
        return changed

    return run


def muon_layout(shapes):
    """Return the layout of matrices that begin at odd places, and the size of the buffer."""
    sizes = [rows * columns + 1 for rows, columns in shapes]
    starts = np.cumsum([1, *sizes])
    return np.array([(at, *shape) for at, shape in zip(starts, shapes, strict=False)]), starts[-1]


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("shapes", [MUON_SHAPES, MUON_SHAPES[4:5]])
def test_muon(shapes, averaged):
    layout, size = muon_layout(shapes)
    arrays = draw(0, size, size, size, size)
    wanted = stepped(reference, layout, averaged)(*(a.astype(float) for a in arrays), *MUON)
    results = in_every_order(stepped(cuda, layout, averaged), *arrays, *MUON)
    for result, expected in zip(results, wanted, strict=True):
        check(result, expected, 2e-5)


def test_a_step_of_muon_is_21_launches():
    """Whatever the number of matrices."""
    layout, size = muon_layout(MUON_SHAPES)
    arrays = map(cupy_on_cpu.asarray, draw(0, size, size, size, size))
    cupy_on_cpu.stats.reset()
    stepped(cuda, layout)(*arrays, *MUON)
    assert cupy_on_cpu.stats.raw_launches == 21
    assert cupy_on_cpu.stats.synchronisations == 0


def test_muon_reads_what_changes_on_the_device():
    """The bits are those of numbers that are passed by value."""
    layout, size = muon_layout(MUON_SHAPES[:2])
    arrays = draw(0, size, size, size, size)
    lr, beta, weight_decay, scale, decay = MUON
    numbers = np.array(lr), beta, weight_decay, np.array(scale, np.float32), np.array(decay)
    by_value = in_every_order(stepped(cuda, layout), *arrays, *MUON)
    on_device = in_every_order(stepped(cuda, layout), *arrays, *numbers)
    for one, other in zip(by_value, on_device, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_muon_changes_nothing_if_the_scale_is_not_finite(scale):
    """Nor does it read what it has not written."""
    layout, size = muon_layout(MUON_SHAPES)
    arrays = draw(0, size, size, size, size)
    results = in_every_order(stepped(cuda, layout), *arrays, *MUON[:3], scale, MUON[4])
    for result, before in zip(results, (arrays[0], *arrays[2:]), strict=True):
        np.testing.assert_array_equal(result, before)


def test_a_recorded_step_is_read_on_the_device():
    """The numbers are those of the step that is there, and not of the step that was passed."""
    x, a, b = draw(0, (3, 50), 3, 3)

    def drawn(x, a, b, at):
        with recorder.recorded(5, at):
            return (
                cuda.q_sample_normal(x, a, b, 1, 2, 5), cuda.dropout(x, 0.5, 1, 2, 5),
                cuda.dropout(x, 0.5, 1, 2, 6),  # of another step: it does not change
            )  # fmt: skip

    results = in_every_order(drawn, x, a, b, np.array([(1 << 32) + 7], np.uint64))
    x_t, noise = cuda.q_sample_normal(*map(cupy_on_cpu.asarray, (x, a, b)), 1, 2, (1 << 32) + 7)
    expected = [x_t.get(), noise.get()]
    expected += [
        cuda.dropout(cupy_on_cpu.asarray(x), 0.5, 1, 2, step).get() for step in ((1 << 32) + 7, 6)
    ]
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, wanted)


def test_more_arrays_than_a_table_holds():
    """Then they take several launches."""
    count = PAIRS + 3
    totals, xs = draw(0, *[5] * count), draw(1, *[5] * count)
    results = in_every_order(cuda.add_all, totals, xs)
    for result, total, x in zip(results, totals, xs, strict=True):
        np.testing.assert_array_equal(result, total + x)

    layout, size = muon_layout([(2, 3)] * (MATRICES + 2))
    arrays = draw(4, size, size, size, size)
    wanted = stepped(reference, layout)(*(a.astype(float) for a in arrays), *MUON)
    for result, expected in zip(
        in_every_order(stepped(cuda, layout), *arrays, *MUON), wanted, strict=True
    ):
        check(result, expected, 2e-5)

    N, C, layers = 2, 4, LAYERS + 2
    (x,), ws, bs = draw(0, (N, C)), draw(1, *[(C, 4)] * layers), draw(2, *[4] * layers)
    gys = draw(3, *[(N, 4)] * layers)
    check_kernel("linears", x, ws, bs)
    check_kernel("linears_backward", gys, x, ws, tolerance=1e-5)
