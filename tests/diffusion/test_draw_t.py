"""Timesteps drawn by log SNR."""

from statistics import NormalDist

import numpy as np
import pytest
from builders import tiny_run

from minddpm.diffusion import schedules
from minddpm.diffusion.draw_t import draw_by_log_snr, independent, low_discrepancy


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_log_snr_of_drawn_timesteps_is_normal(name):
    """The share of t > k is that of the log SNRs below the middle between k and k + 1."""
    ac, N = np.cumprod(1 - schedules.BY_NAME[name](1000)), 20_000
    t = draw_by_log_snr(ac, N, seed=1, step=2)
    for k in (5, 100, 400, 600, 900):
        middle = np.mean([np.log(a / (1 - a)) for a in ac[k : k + 2]])
        p = NormalDist(0, 2.4).cdf(middle)
        assert abs((t > k).mean() - p) < 5 * np.sqrt(p * (1 - p) / N), k


@pytest.mark.parametrize("T", [1, 2, 40])
def test_short_processes_have_no_other_timesteps(T):
    t = draw_by_log_snr(np.cumprod(1 - schedules.cosine(T)), 1000, seed=0, step=0)
    assert t.dtype == np.int64
    assert 0 <= t.min() <= t.max() < T
    assert (np.bincount(t, minlength=T) > 0)[: max(1, T - 1)].all()  # the last has almost no signal


def test_seed_and_step_determine_the_draw():
    ac = np.cumprod(1 - schedules.cosine(1000))
    np.testing.assert_array_equal(draw_by_log_snr(ac, 50, 1, 2), draw_by_log_snr(ac, 50, 1, 2))
    for other in ((1, 3), (2, 2)):
        assert (draw_by_log_snr(ac, 50, 1, 2) != draw_by_log_snr(ac, 50, *other)).any()


def test_only_the_simple_loss_draws_by_log_snr_and_has_no_weights(tmp_path):
    def drawn(**options):
        return tiny_run(tmp_path, draw_t="log-snr", **options)._draw_t(1000, 3)

    plain, _ = tiny_run(tmp_path)._draw_t(1000, 3)
    t, weights = drawn()
    assert weights is None
    assert (t != plain).any()
    for loss in ("hybrid", "vlb"):
        np.testing.assert_array_equal(drawn(loss=loss)[0], plain)


def test_low_discrepancy_numbers_are_each_uniform_and_together_even():
    """Of every N equal parts of [0, 1) each has one number, wherever the parts begin."""
    draws = np.stack([low_discrepancy(8, seed=1, step=step) for step in range(2000)])
    assert ((draws >= 0) & (draws < 1)).all()
    for column in draws.T:  # Kolmogorov's distance to the uniform distribution
        distance = np.abs(np.sort(column) - (np.arange(2000) + 0.5) / 2000).max()
        assert distance < 1.95 / np.sqrt(2000)
    parts = np.sort(np.floor(8 * ((draws - 0.03) % 1)), axis=1)
    np.testing.assert_array_equal(parts, np.tile(np.arange(8), (2000, 1)))
    means, alone = (f.mean(axis=1).std() for f in (draws, np.stack(
        [independent(8, seed=1, step=step) for step in range(2000)])))  # fmt: skip
    assert means < alone / 2


def test_a_run_draws_t_evenly_if_asked(tmp_path):
    run = tiny_run(tmp_path, draw_t="low-discrepancy", loss="vlb")
    T = run.diffusion.T
    t, weights = run._draw_t(T, 3)
    assert weights is None
    np.testing.assert_array_equal(np.sort(t), np.arange(T))
    run = tiny_run(tmp_path, draw_t="low-discrepancy", loss="vlb", importance_sampling=True)
    t, weights = run._draw_t(T, 3)  # uniform before there are losses of each t
    np.testing.assert_array_equal(np.sort(t), np.arange(T))
    np.testing.assert_allclose(weights, 1)
