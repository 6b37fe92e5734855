"""The training of minddpm.gpucheck, in the emulator, at a tiny size."""

import shutil

import numpy as np
import pytest
from PIL import Image

from minddpm.data import ImageDataset
from minddpm.errors import InputError
from minddpm.gpucheck import checks, digits, timings
from minddpm.training.ddpm import Trainer

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")


@pytest.fixture
def train(emulated_cupy, monkeypatch, tmp_path):
    """Return train() -> Digits: four training steps and two sampling steps of images of 8 x 8."""
    monkeypatch.setattr(digits, "DIGITS", digits.DIGITS._replace(model=checks.TINY))
    monkeypatch.setattr(timings, "QUICK_BATCH", 2)
    for name in ("SAMPLING_STEPS", "SYNCHRONISED"):
        monkeypatch.setattr(digits, name, 2)
    data = ImageDataset(checks.strokes(90, 8), np.arange(90) % 10, "strokes")
    monkeypatch.setattr(digits, "load_mnist", lambda: data)
    return lambda seconds=0.0: digits.digits(seconds, tmp_path / "digits.png", quick=True)


def test_a_training(train, tmp_path):
    found = train()
    assert (found.steps, found.data, found.problem, found.note) == (4, "strokes", "", "")
    assert found.loss > 0
    assert 0 <= found.sure <= 1
    assert 0 <= found.sure_of_real <= 1
    assert found.fid is None  # two images for 64 features
    assert found.picture == str(tmp_path / "digits.png")
    with Image.open(found.picture) as picture:
        assert picture.width > 16


def test_the_time_of_some_steps_determines_their_number(train, monkeypatch):
    """4 steps take 8 s; 5 more fit into the seconds. The rate falls during the last quarter.

    If steps then take longer, there are fewer.
    """
    clock, rates, right, later = [0.0], [], Trainer.train_step, [2.0]

    def step(self):
        clock[0] += 2.0 if self.step < 4 else later[0]
        record = right(self)
        rates.append(self.optimizer.lr)
        return record

    monkeypatch.setattr(Trainer, "train_step", step)
    monkeypatch.setattr(digits.time, "monotonic", lambda: clock[0])
    found = train(18.5 / digits.TRAINING)
    assert (found.steps, found.training_seconds, found.problem) == (9, 18.0, "")
    warm_up = [rate / (step + 1) for step, rate in enumerate(rates)]
    np.testing.assert_allclose(warm_up[:8], warm_up[0])
    np.testing.assert_allclose(warm_up[8], warm_up[0] / 2)
    clock[0], later[0] = 0.0, 3.0
    found = train(18.5 / digits.TRAINING)
    assert (found.steps, found.training_seconds) == (7, 17.0)


def test_enough_images_have_an_fid(train):
    """Of a sample that repeats the data, it is near that of other real images; noise is far."""
    judge, real = digits.load_judge(), checks.strokes(400, 8)
    data = ImageDataset(real, None, "strokes")
    like, noise = checks.strokes(100, 8, seed=1), np.random.default_rng(0).integers(0, 256, 6400)
    scores = [
        digits._judged(images.reshape(100, 8, 8, 1).astype(np.float32) / 127.5 - 1, data)
        for images in (like, noise)
    ]
    assert judge.width < 100
    assert scores[0]["fid"] < 3 * scores[0]["fid_of_real"]
    assert scores[1]["fid"] > 10 * scores[0]["fid"]
    assert scores[0]["fid_of_real"] == scores[1]["fid_of_real"]


def test_a_full_disk_costs_the_picture_only(train, monkeypatch):
    def full(image, path):
        raise InputError(f"{path} could not be written")

    monkeypatch.setattr(digits, "save_png", full)
    found = train()
    assert found.steps == 4
    assert found.sure is not None
    assert found.picture == ""
    assert found.note.endswith("digits.png could not be written")


def test_without_data_there_is_no_training(train, monkeypatch):
    def missing():
        raise InputError("no digits")

    monkeypatch.setattr(digits, "load_mnist", missing)
    assert train() == digits.Digits(missing="no digits")


def test_a_loss_that_is_not_finite_is_a_problem(train, monkeypatch):
    right = Trainer.train_step

    def wrong(self):
        record = right(self)
        return record._replace(losses=record.losses * np.float32(np.nan))

    monkeypatch.setattr(Trainer, "train_step", wrong)
    assert train().problem == "ArithmeticError: the loss of step 1 is nan"
