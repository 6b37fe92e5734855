"""Timesteps drawn by log SNR."""

from statistics import NormalDist

import numpy as np
import pytest
from builders import tiny_run

from minddpm.diffusion import schedules
from minddpm.diffusion.draw_t import draw_by_log_snr


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
