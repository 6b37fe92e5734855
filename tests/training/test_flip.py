"""--flip: a random half of the images from left to right, as a function of seed and step."""

import numpy as np
from builders import random_unet

import minddpm
from minddpm.data import ImageDataset
from minddpm.training.ddpm import Trainer, TrainingOptions
from minddpm.training.run_directory import RunDirectory

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 8, 12, 1), dtype=np.uint8)
IMAGES.flags.writeable = False  # the data set must stay as it is


def batch(tmp_path, step, **options):
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(40))
    data = ImageDataset(IMAGES, None, "noise")
    options = TrainingOptions(batch_size=64, **options)
    return Trainer(random_unet(), diffusion, data, RunDirectory(tmp_path), options)._batch(step).x0


def test_a_random_half_is_flipped(tmp_path):
    for step in range(2):
        plain, flipped = batch(tmp_path, step), batch(tmp_path, step, flip=True)
        as_before = (flipped == plain).all(axis=(1, 2, 3))
        mirrored = (flipped == plain[:, :, ::-1]).all(axis=(1, 2, 3))
        assert (as_before ^ mirrored).all()
        assert 16 < mirrored.sum() < 48
        np.testing.assert_array_equal(batch(tmp_path, step, flip=True), flipped)
