"""The graph: order, accumulation, broadcasting, freeing, and the errors that protect it."""

import gc
import threading
import tracemalloc
import weakref

import numpy as np
import pytest
from builders import host

from minddpm import GraphError, Tensor, backend, no_grad
from minddpm import autodiff as F
from minddpm.autodiff import pointwise
from minddpm.autodiff.graph import Function


def leaf(*values):
    return Tensor(np.array(values), requires_grad=True)


def test_a_tensor_used_twice_gets_both_gradients():
    """b = a + a; c = b * b = 4 a^2, so dc/da = 8 a."""
    a = leaf(3.0)
    b = a + a
    c = b * b
    c.backward()
    assert a.grad == [24.0]


def test_each_function_runs_once_in_a_deep_diamond():
    """x -> x + x, sixty times: following each path would take 2^60 steps."""
    a = leaf(1.0)
    x = a
    for _ in range(60):
        x = x + x
    x.backward()
    assert a.grad == [2.0**60]


def test_a_chain_deeper_than_the_recursion_limit():
    a = leaf(1.0)
    x = a
    for _ in range(5000):
        x = x + 1.0
    x.backward()
    assert a.grad == [1.0]
    del x  # frees the graph of 5,000 functions without recursion errors


def test_a_second_graph_adds_to_the_gradient():
    a = leaf(2.0)
    (a * a).backward()
    (a * a).backward()
    assert a.grad == [8.0]


def test_the_gradient_of_a_sum_is_not_shared_between_its_operands():
    """Both get the same gy; adding to one .grad must not change the other."""
    a, b = leaf(1.0), leaf(1.0)
    (a + b).backward()
    a.grad += 1
    assert b.grad == [1.0]


def test_a_0d_leaf_accumulates_too():
    """Arithmetic of 0-d arrays gives scalars, which += would not change in place."""
    a = Tensor(2.0, requires_grad=True)
    (a * a + a).backward()
    (a * 3.0).backward()
    assert a.grad == 8.0


def test_a_function_is_used_once():
    a, f = leaf(1.0), pointwise.Exp()
    f(a)
    with pytest.raises(GraphError, match="once"):
        f(a)


def test_an_array_is_not_an_index():
    with pytest.raises(TypeError, match="take_rows"):
        leaf(1.0, 2.0)[np.array([0, 0])]


def test_the_power_zero_has_gradient_zero():
    a = leaf(0.0, 1.0)
    (a**0).sum().backward()
    assert (a.grad == 0).all()


def test_a_large_result_can_be_written_to_again_after_backward():
    a = Tensor(np.ones(100_000), requires_grad=True)
    y = F.exp(a)
    (y * y).sum().backward()
    y.data[0] = 5


def test_backward_leaves_the_given_gradient_alone():
    a = leaf(1.0, 2.0)
    g = np.array([1.0, 1.0])
    y = a + a
    (y + y).backward(g)
    assert (g == 1).all()


class Share(Function):
    """y = a + b + c whose backward returns the same array for all three inputs."""

    def forward(self, a, b, c):
        return a + b + c

    def backward(self, gy):
        return gy, gy, gy[...]  # the last is a view of it


@pytest.mark.parametrize("size", [2, 100_000])
def test_accumulation_changes_no_shared_array(any_backend, size):
    """x and y get the same array from the last function; each accumulates more gradients."""
    a = Tensor(np.ones(size, np.float32), requires_grad=True)
    x, y = a * 2.0, a * 3.0
    g = np.ones(size, np.float32)
    z = Share()(x, y, x) + Share()(y, x, x) + x + x * 5.0 + y * 7.0
    z.backward(g)
    # dz/dx = 2 + 2 + 1 + 5 = 10; dz/dy = 1 + 1 + 7 = 9
    assert (a.grad == 2 * 10 + 3 * 9).all()
    assert (g == 1).all()


def test_a_gradient_that_a_backward_has_seen_is_not_changed(any_backend):
    """Also if it is a sum that was accumulated on the way."""
    seen = []

    class Recorder(Share):
        def backward(self, gy):
            seen.append((gy, gy.copy()))
            return super().backward(gy)

    a = Tensor(np.ones(3, np.float32), requires_grad=True)
    x = a
    for _ in range(4):
        x = Recorder()(x, x * 2.0, x)
        x = x + x + x
    x.sum().backward()
    assert (a.grad == 12.0**4).all()
    assert all((gy == copy).all() for gy, copy in seen)


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [((2, 3), (3,)), ((2, 3), (1, 3)), ((2, 1), (1, 3)), ((2, 3), ()), ((1,), (4, 1, 2))],
)
@pytest.mark.parametrize("operation", ["add", "sub", "mul", "truediv"])
def test_broadcasting_is_undone(shape_a, shape_b, operation):
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal(shape_a), rng.standard_normal(shape_b) + 3
    method = f"__{operation}__"
    assert F.gradcheck(lambda a, b: getattr(a, method)(b), [a, b]) < 1e-6


def test_numbers_and_arrays_work_on_both_sides_and_keep_float32():
    x = Tensor(np.ones(2, np.float32), requires_grad=True)
    two = np.full(2, 2, np.float32)
    for y in (2 * x, x * 2, two * x, x * two, 2 + x - 0 * x, 4 / (x + 1), 3 - x, -x + 3):
        assert isinstance(y, Tensor)
        assert y.dtype == np.float32
        assert (y.data[:1] == 2).all() or (y.data == 3).all()


def test_no_grad_records_nothing():
    a = leaf(1.0)
    with no_grad():
        y = a * a
    assert y.creator is None
    with pytest.raises(GraphError, match="no_grad"):
        y.backward()
    assert (a * a).creator is not None  # recording resumes after the block


def test_constants_get_no_gradient():
    a, constant = leaf(2.0), Tensor(np.array([3.0]))
    (a * constant).backward()
    assert a.grad == [3.0]
    assert constant.grad is None


def test_detach_stops_the_gradient():
    a = leaf(2.0)
    (a * (a * a).detach()).backward()
    assert a.grad == [4.0]


def test_backward_through_a_freed_graph():
    a = leaf(1.0)
    b = a * a
    (b * 2.0).backward()
    with pytest.raises(GraphError, match="freed"):
        (b * 3.0).backward()
    assert a.grad == [4.0]


def test_backward_needs_a_gradient_of_the_right_shape():
    a = leaf(1.0, 2.0)
    with pytest.raises(ValueError, match="needs the gradient"):
        (a * a).backward()
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        (a * a).backward(np.ones(3))


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize("which", ["a leaf", "a result"])
def test_a_saved_array_changed_in_place_is_refused(size, which):
    """Small arrays and leaves: backward raises. Large results: NumPy raises at the write."""
    x = Tensor(np.ones(size), requires_grad=True)
    middle = x + 1
    y = (middle * middle).sum() if which == "a result" else (x * x).sum()
    changed = middle if which == "a result" else x
    if which == "a result" and size == 100_000:
        with pytest.raises(ValueError, match="read-only"):
            changed.data[0] = 5
        return
    changed.data[0] = 5
    with pytest.raises(GraphError, match="changed in place"):
        y.backward()


@pytest.mark.parametrize("shape", [(2,), (3, 3, 64, 64), (1000, 999)])
@pytest.mark.parametrize("change", ["turned", "negated", "one element"])
def test_any_change_in_place_is_noticed(shape, change):
    """A plain sum would not detect the first two."""
    values = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    x = Tensor(values, requires_grad=True)
    y = (x * x).sum()
    if change == "one element":
        x.data[(-1,) * len(shape)] += 1e-6
    else:
        x.data[...] = x.data[::-1].copy() if change == "turned" else -x.data
    with pytest.raises(GraphError, match="changed in place"):
        y.backward()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: F.conv2d(x, Tensor(np.ones((3, 3, 2, 4))), Tensor(np.ones(4))), "conv2d"),
        (lambda x: F.conv2d(x, Tensor(np.ones((3, 3, 3, 4))), Tensor(np.ones(3))), "bias"),
        (lambda x: F.conv2d(x, Tensor(np.ones((9, 9, 3, 4))), Tensor(np.ones(4))), "smaller"),
        (
            lambda x: F.conv_transpose2d(x, Tensor(np.ones((3, 3, 3, 4))), Tensor(np.ones(3))),
            "conv_transpose2d: x",
        ),
        (
            lambda x: F.conv_transpose2d(x, Tensor(np.ones((3, 3, 4, 3))), Tensor(np.ones(3))),
            "conv_transpose2d: bias",
        ),
        (
            lambda x: F.conv_transpose2d(
                x, Tensor(np.ones((3, 3, 4, 3))), Tensor(np.ones(4)), 1, 3
            ),
            "size",
        ),
        (lambda x: F.linear(x, Tensor(np.ones((2, 4))), Tensor(np.ones(4))), "linear"),
        (lambda x: F.group_norm(x, Tensor(np.ones(3)), Tensor(np.ones(3)), 2, 1e-5), "2 equal"),
        (lambda x: F.group_norm(x, Tensor(np.ones(2)), Tensor(np.ones(3)), 1, 1e-5), "weight"),
        (lambda x: F.attention(x, x, x, 1), "attention"),
        (
            lambda x: F.norm_silu_conv2d(
                x,
                *[Tensor(np.ones(3))] * 2,
                1,
                1e-5,
                Tensor(np.ones((3, 3, 3, 4))),
                Tensor(np.ones(4)),
                extra=((x,), Tensor(np.ones((2, 4))), Tensor(np.ones(4))),
            ),
            "a layer's weight",
        ),
        (lambda x: F.concat([x, Tensor(np.ones((2, 3, 5, 3)))]), "concat"),
        (lambda x: F.take_rows(Tensor(np.ones((4, 2))), np.array([0, 4])), "into 4 rows"),
        (lambda x: x + Tensor(np.ones(7)), "broadcast"),
    ],
)
def test_wrong_shapes_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call(Tensor(np.ones((2, 4, 5, 3))))


def test_integers_have_no_gradient():
    with pytest.raises(TypeError, match="int64"):
        Tensor(np.arange(3), requires_grad=True)


def test_backward_frees_the_graph_as_it_goes():
    """A saved array is freed after its function's backward, although the result is alive."""
    a = Tensor(np.ones(1000), requires_grad=True)
    y = F.exp(a)
    saved = weakref.ref(y.creator._saved[0])
    z = (y * 2.0).sum()
    del y
    assert saved() is not None
    z.backward()
    assert saved() is None
    assert z.creator.inputs is None


def test_memory_does_not_grow_with_the_number_of_steps():
    """No cycles: every graph is freed before the next one, without the garbage collector."""
    rng = np.random.default_rng(0)
    w = Tensor(rng.standard_normal((3, 3, 8, 8)), requires_grad=True)
    b = Tensor(np.zeros(8), requires_grad=True)
    x = Tensor(rng.standard_normal((4, 16, 16, 8)))

    def step():
        y = x
        for _ in range(4):
            y = F.silu(F.conv2d(y, w, b, padding=1))
        y.mean().backward()

    gc.disable()
    tracemalloc.start()
    try:
        step()
        step()
        after_two, peak_of_two = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(10):
            step()
        after_twelve, peak_of_twelve = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        gc.enable()
    one_activation = x.data.nbytes
    assert after_twelve - after_two < one_activation  # ten steps leave none behind
    assert peak_of_twelve - peak_of_two < one_activation


def test_a_gradient_has_the_dtype_of_its_tensor(any_backend):
    x = Tensor(np.ones(3, np.float32), requires_grad=True)
    wide = Tensor(np.array([1.0, 2.0, 1 / 3]), requires_grad=True)
    y = x * wide
    assert y.dtype == np.float64  # NumPy's choice
    y.sum().backward()
    assert (x.grad.dtype, wide.grad.dtype) == (np.float32, np.float64)
    np.testing.assert_array_equal(host(x.grad), np.float32([1, 2, 1 / 3]))


def test_a_tensor_of_one_element_is_a_number(any_backend):
    for value in (0.0, 2.5):
        x = Tensor(np.full((1, 1), value, np.float32))
        assert (bool(x), float(x[0, 0]), int(x[0, 0])) == (bool(value), value, int(value))
    with pytest.raises(ValueError, match="ambiguous"):
        bool(Tensor(np.ones(2, np.float32)))


def test_comparisons_give_arrays_of_booleans(any_backend):
    x = Tensor(np.array([1.0, 2.0, 3.0], np.float32), requires_grad=True)
    for result, expected in (
        (x == 2, [False, True, False]),
        (x != x, [False] * 3),
        (x < 2.5, [True, True, False]),
        (x <= x.data, [True] * 3),
        (x > 2, [False, False, True]),
        (x <= 2, [True, True, False]),
    ):
        assert isinstance(result, backend.xp.ndarray)
        assert host(result).tolist() == expected
    assert len({x, x, Tensor(x.data)}) == 2  # a key of a dict by identity


def test_numpy_takes_a_tensor_that_needs_no_gradient():
    x = Tensor(np.array([1.0, 2.0], np.float32))
    array = np.asarray(x)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(np.stack([x, x]), [[1, 2], [1, 2]])
    array[0] = 5
    assert x.data[0] == 1  # a copy
    with pytest.raises(TypeError, match=r"use \.data"):
        np.asarray(Tensor(x.data, requires_grad=True))


def test_no_grad_is_of_each_python_thread():
    entered, left = threading.Event(), threading.Event()

    def other():
        with no_grad():
            entered.set()
            left.wait()

    thread = threading.Thread(target=other)
    x = leaf(1.0)
    with no_grad():
        thread.start()
        entered.wait()
    assert (x * x).creator is not None  # the other block is still open
    left.set()
    thread.join()
    assert (x * x).creator is not None
