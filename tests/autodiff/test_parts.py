"""A backward in parts: each group of leaves has its gradients when its turn ends, and not later."""

import numpy as np
import pytest

from minddpm import Tensor
from minddpm.autodiff.graph import Function
from minddpm.autodiff.parts import backward_in_parts


def leaves(count):
    rng = np.random.default_rng(0)
    return [Tensor(rng.standard_normal(3).astype("float32"), requires_grad=True)
            for _ in range(count)]  # fmt: skip


def chain(a, b, c, d):
    """Return a graph that uses a first, then b, then c twice and b again, then d."""
    return ((a * b) * c + c * b) * d


@pytest.mark.parametrize("groups", [[[3], [2], [1], [0]], [[3, 2], [0, 1]], [[0], [1, 2, 3]]])
def test_a_group_has_its_gradients_when_its_turn_ends(groups):
    one, other = leaves(4), leaves(4)
    for x in (*one, *other):  # as after an earlier part of a batch
        x.grad = np.ones(3, np.float32)
    g = np.array([1, 2, 3], np.float32)
    chain(*one).backward(g)
    parts = backward_in_parts(chain(*other), g, [[other[i] for i in group] for group in groups])
    done = []
    for group in groups:
        next(parts, None)
        done += group
        for i in range(4):
            expected = one[i].grad if i in done else np.ones(3)
            np.testing.assert_array_equal(other[i].grad, expected)
    assert next(parts, "the end") == "the end"


def test_a_part_computes_no_more_than_its_group_needs(monkeypatch):
    a, b, c, d = leaves(4)
    ran, right = [], Function.run_backward
    monkeypatch.setattr(Function, "run_backward", lambda *args: [ran.append(args[0]), right(*args)])
    parts, counts = backward_in_parts(chain(a, b, c, d), d.data, [[d], [a], [b, c]]), []
    for _ in range(3):
        next(parts, None)
        counts.append(len(ran))
    assert counts == [1, 4, 5]


def test_a_leaf_within_a_function_is_complete_at_the_end():
    """As the weights of a model that replays: no function has them as inputs."""
    a, b, hidden = leaves(3)
    hidden.grad = np.zeros(3, np.float32)

    class Model(Function):
        def forward(self, x):
            return x * hidden.data

        def backward(self, gy):
            hidden.grad += gy
            return (gy * hidden.data,)

    y = Model()(a) * b
    parts = backward_in_parts(y, np.ones(3, np.float32), [[b], [hidden], [a]])
    next(parts)
    assert not hidden.grad.any()
    next(parts)
    np.testing.assert_array_equal(hidden.grad, b.data)
