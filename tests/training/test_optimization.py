"""Adam's step with clipping and averaging, and how the learning rate changes over the steps."""

import math

import numpy as np
import pytest

from minddpm import backend, nn


def test_warmup_clipping_and_the_average():
    assert [nn.warmup_lr(1.0, s, 4) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert nn.warmup_lr(1.0, 0, 0) == 1
    assert [nn.cooldown(s, 6, 2) for s in range(9)] == [1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0]
    assert [nn.cooldown(s, 6, 6) for s in range(9)] == [1] * 9
    assert [nn.cooldown(s, 6, 5) for s in range(4, 8)] == [1, 1, 0, 0]

    p = nn.Parameter(np.zeros(3, np.float32))
    flat = nn.FlatParameters([p])
    average = nn.EMA(flat, decay=0.5)
    p.data = np.ones(3)
    average.update(0)  # decay_0 = min(0.5, 1/10)
    np.testing.assert_allclose(average.average[:3], 0.9)
    average.update(1000)  # decay = 0.5
    np.testing.assert_allclose(average.average[:3], 0.95)
    with average.applied():
        np.testing.assert_allclose(p.data, 0.95)
    np.testing.assert_allclose(p.data, 1)


@pytest.mark.parametrize(
    ("gradient", "scale"), [(10.0, 0.2), (1.0, 1.0), (0.0, 1.0), (math.inf, math.nan),
                            (math.nan, math.nan)],
)  # fmt: skip
def test_clip_scale(any_backend, gradient, scale):
    squared = backend.kernels.squared_norm(backend.xp.full(1, gradient, "float32"))
    found = backend.kernels.clip_scale(squared, 2.0)
    assert found.dtype == np.float32
    assert found.shape == ()
    np.testing.assert_allclose(backend.to_numpy(found), scale, rtol=1e-6)


def test_a_gradient_that_is_not_finite_changes_nothing(any_backend):
    p = nn.Parameter(np.ones(3, np.float32))
    optimizer = nn.Adam([p])
    ema = nn.EMA(optimizer.flat)
    arrays = optimizer.flat.data, optimizer.m, optimizer.v, ema.average
    for gradient in (1.0, math.nan, math.inf, 1.0):
        before = [backend.to_numpy(a).copy() for a in arrays]
        p.grad = backend.xp.full(3, gradient, "float32")
        optimizer.step(1.0, ema)
        after = map(backend.to_numpy, arrays)
        same = [np.array_equal(a, b) for a, b in zip(after, before, strict=True)]
        assert same == [not math.isfinite(gradient)] * 4


def test_a_step_with_the_average_is_a_step_and_then_an_update(any_backend):
    def train(together):
        p = nn.Parameter(np.linspace(-1, 1, 5, dtype=np.float32))
        optimizer = nn.Adam([p], lr=0.1, weight_decay=0.1)
        ema = nn.EMA(optimizer.flat, decay=0.2)
        for step in range(4):
            ((p - 3) ** 2).sum().backward()
            if together:
                optimizer.step(0.5, ema=ema)
            else:
                optimizer.step(0.5)
                ema.update(step)
            optimizer.zero_grad()
        return backend.to_numpy(p.data), backend.to_numpy(ema.average)

    for one, other in zip(train(together=True), train(together=False), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_average_of_other_parameters_is_refused():
    ours, others = (nn.Adam([nn.Parameter(np.zeros(3, np.float32))]) for _ in range(2))
    with pytest.raises(ValueError, match="other parameters"):
        ours.step(ema=nn.EMA(others.flat))
    assert ours.steps == 0


def test_parameters_stay_in_the_flat_buffer():
    """Whichever way a user assigns to data or grad, the optimiser uses the new values."""
    p = nn.Parameter(np.zeros((2, 2), np.float32))
    optimizer = nn.Adam([p], lr=0.1)
    p.data = np.full((2, 2), 3)
    p.data[0, 0] = 4
    assert optimizer.flat.data[:4].tolist() == [4, 3, 3, 3]
    p.grad = None
    (p * 2).sum().backward()
    assert optimizer.flat.grad[:4].tolist() == [2] * 4
    optimizer.step()
    np.testing.assert_allclose(p.data, [[3.9, 2.9], [2.9, 2.9]], rtol=1e-5)
    optimizer.zero_grad()
    assert (p.grad == 0).all()
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        p.data = np.zeros(3)
