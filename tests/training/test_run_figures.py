"""The figures of a run: forward.png shows timesteps at which the image changes."""

import numpy as np
import pytest
from builders import noise_images
from PIL import Image

from minddpm import GaussianDiffusion, schedules
from minddpm.commands import run_figures
from minddpm.commands.run_figures import BARELY_NOISY, ONLY_NOISE, forward_timesteps
from minddpm.training.run_directory import RunDirectory


def log_snr(betas):
    ac = np.cumprod(1 - betas)
    return np.log(ac / (1 - ac)) / 2


@pytest.mark.parametrize("schedule", [schedules.linear, schedules.cosine])
def test_timesteps_are_evenly_spaced_in_log_snr(schedule):
    betas = schedule(1000)
    timesteps = forward_timesteps(np.cumprod(1 - betas), 11)
    assert len(timesteps) == 11
    steps = np.diff(log_snr(betas)[timesteps])
    np.testing.assert_allclose(steps, (ONLY_NOISE - BARELY_NOISY) / 10, rtol=0.1)


def test_a_short_schedule_has_fewer_timesteps_and_none_twice():
    timesteps = forward_timesteps(np.cumprod(1 - schedules.linear(21)), 11)
    assert (np.diff(timesteps) > 0).all()
    assert timesteps[0] >= 0
    assert timesteps[-1] <= 20


@pytest.mark.filterwarnings("error")
def test_a_schedule_that_ends_without_signal():
    assert forward_timesteps(np.array([0.99, 0.5, 0.0]), 3).tolist() == [0, 1]


def test_forward_png_has_a_column_for_each_timestep(tmp_path):
    diffusion = GaussianDiffusion(schedules.linear(1000))
    run_figures.draw_forward(RunDirectory(tmp_path), diffusion, noise_images(7), seed=0)
    with Image.open(tmp_path / "forward.png") as image:
        assert image.width == 11 * (2 * 8 + 2) + 2
        assert image.height > 6 * (2 * 8 + 2) + 2  # six images below the labels
