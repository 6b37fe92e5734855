"""Importance sampling of t: unbiased and with the least variance."""

import numpy as np
import pytest

from minddpm.diffusion.draw_t import independent, low_discrepancy
from minddpm.training.importance import HISTORY, UNIFORM_SHARE, ImportanceSampler

T = 7


def full(losses):
    """Return a sampler that has stored these losses of each t, [T, 10]."""
    sampler = ImportanceSampler(len(losses))
    for column in np.asarray(losses, float).T:
        sampler.update(np.arange(len(losses)), column)
    return sampler


def test_t_is_uniform_until_every_t_has_ten_losses():
    sampler = ImportanceSampler(T)
    for _ in range(HISTORY):
        np.testing.assert_array_equal(sampler.probabilities(), np.full(T, 1 / T))
        sampler.update(np.arange(T - 1), np.arange(1.0, T))
    for left in range(HISTORY, 0, -1):
        assert (sampler.probabilities() == 1 / T).all(), left
        sampler.update(np.array([T - 1]), np.array([3.0]))
    assert not (sampler.probabilities() == 1 / T).any()


def test_probabilities_are_equation_18():
    losses = np.random.default_rng(0).exponential(2.0, (T, HISTORY))
    root = [sum(x**2 for x in row.tolist()) ** 0.5 for row in losses]
    expected = [0.999 * r / sum(root) + 0.001 / T for r in root]
    np.testing.assert_allclose(full(losses).probabilities(), expected, rtol=1e-6)
    assert UNIFORM_SHARE == 0.001


def test_only_the_latest_ten_losses_count():
    sampler = full(np.full((T, HISTORY), 100.0))
    for _ in range(HISTORY):
        sampler.update(np.arange(T), np.arange(1.0, T + 1))
    expected = full(np.repeat(np.arange(1.0, T + 1)[:, None], HISTORY, axis=1))
    np.testing.assert_array_equal(sampler.losses, expected.losses)
    sampler.update(np.array([2, 2, 2]), np.array([7.0, 8.0, 9.0]))  # one t several times
    assert sampler.losses[2, -3:].tolist() == [7, 8, 9]


@pytest.mark.parametrize("draw", [independent, low_discrepancy])
def test_draws_follow_the_probabilities_and_the_weights_correct_for_them(draw):
    sampler = full(np.arange(1.0, T + 1)[:, None] * np.ones(HISTORY))
    p, N = sampler.probabilities(), 200_000
    t, weights = sampler.draw(draw(N, seed=3, step=5))
    counts = np.bincount(t, minlength=T)
    assert (np.abs(counts - N * p) < 5 * np.sqrt(N * p)).all()
    np.testing.assert_allclose(weights, 1 / (T * p[t]), rtol=1e-6)
    anything = np.array([3.0, -1.0, 0.5, 2.0, 0.0, 9.0, 1.0])
    assert (weights * anything[t]).mean() == pytest.approx(anything.mean(), abs=0.05)


def test_weighted_losses_equal_to_the_history_have_no_variance():
    losses = np.array([5.0, 2.0, 1.0, 0.5, 0.25, 0.1, 0.1])
    sampler = full(losses[:, None] * np.ones(HISTORY))
    t, weights = sampler.draw(independent(1000, seed=0, step=0))
    assert (weights * losses[t]).std() < 0.01 * losses[t].std()


def test_seed_step_and_history_determine_the_draws():
    one, other = (full(np.ones((T, HISTORY))) for _ in range(2))
    uniform = independent(50, 1, 2)
    np.testing.assert_array_equal(one.draw(uniform)[0], other.draw(independent(50, 1, 2))[0])
    assert (one.draw(independent(50, 1, 3))[0] != one.draw(uniform)[0]).any()
    assert (one.draw(independent(50, 2, 2))[0] != one.draw(uniform)[0]).any()
