"""Logarithms of probabilities against SciPy, also at values for which naive formulas overflow."""

import numpy as np
import pytest
from scipy import special

from minddpm import Tensor, backend
from minddpm import autodiff as F

FAR = np.array([-2000.0, -745, -50, -1, 0, 1e-9, 1, 50, 745, 2000])


@pytest.fixture(autouse=True)
def on_every_backend(any_backend):
    """Run all tests of this file on each backend."""


def value(x):
    return backend.to_numpy(x.data)


def tensor(x):
    return Tensor(backend.xp.asarray(x), requires_grad=True)


def test_softplus_is_minus_the_log_of_a_sigmoid():
    x = tensor(FAR)
    y = F.softplus(x)
    # atol: e^-745 is a denormal number, for which a GPU may return 0.
    np.testing.assert_allclose(value(y), -special.log_expit(-FAR), rtol=1e-14, atol=1e-300)
    y.sum().backward()
    np.testing.assert_allclose(backend.to_numpy(x.grad), special.expit(FAR), rtol=1e-12, atol=1e-16)


def test_log_softmax():
    rows = np.stack([FAR, FAR[::-1] * 0.3, np.full(len(FAR), 1e4)])
    x = tensor(rows)
    y = F.log_softmax(x)
    np.testing.assert_allclose(value(y), special.log_softmax(rows, axis=1), rtol=1e-13, atol=1e-13)
    (y * backend.xp.arange(10.0)).sum().backward()
    expected = np.arange(10) - 45 * special.softmax(rows, axis=1)
    np.testing.assert_allclose(backend.to_numpy(x.grad), expected, atol=1e-12)


def test_cross_entropy_picks_the_label():
    logits = np.linspace(-1, 2, 12).reshape(3, 4)
    losses = F.cross_entropy(tensor(logits), np.array([3, 0, 1]))
    expected = -special.log_softmax(logits, axis=1)[[0, 1, 2], [3, 0, 1]]
    np.testing.assert_allclose(value(losses), expected, rtol=1e-14)


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 4], [0, -1, 1], [[0], [1], [2]]])
def test_labels_that_do_not_fit(labels):
    with pytest.raises(ValueError, match="cross_entropy"):
        F.cross_entropy(tensor(np.zeros((3, 4))), np.array(labels))


def test_binary_cross_entropy():
    target = np.linspace(0, 1, 10)
    losses = F.binary_cross_entropy(tensor(FAR), backend.xp.asarray(target))
    expected = -(target * special.log_expit(FAR) + (1 - target) * special.log_expit(-FAR))
    np.testing.assert_allclose(value(losses), expected, rtol=1e-13, atol=1e-13)
