"""The scale of the loss where half is multiplied: what it learns, and that training goes on."""

import math

import numpy as np
import pytest

import minddpm
from minddpm import Tensor, backend
from minddpm.data import ImageDataset
from minddpm.loop import TrainingDivergedError
from minddpm.loss_scale import LARGEST, LossScale
from minddpm.rundir import LOSS, RunDirectory, read_loss
from minddpm.training import Trainer, TrainingOptions

CONFIG = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (8, 8),
    "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": 8,
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
}  # fmt: skip


@pytest.fixture
def half(monkeypatch):
    """As if something were multiplied in half, on every backend."""
    monkeypatch.setattr(LossScale, "needed", staticmethod(lambda: True))


def trainer(path, steps=4):
    minddpm.set_backend("numpy")
    minddpm.manual_seed(0)
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
    options = TrainingOptions(steps=steps, batch_size=4, log_every=2, checkpoint_every=2)
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(40))
    data = ImageDataset(images, None, "noise")
    return Trainer(minddpm.UNet2D(**CONFIG), diffusion, data, RunDirectory(path), options)


def overflowing(run, limit):
    """Let every gradient be infinite while the scale is above the limit, as half's would be."""
    whole = run._backward

    def backward(step):
        made = whole(step)
        if float(run.loss_scale.scale) > limit:
            run.optimizer.flat.grad[0] = np.inf
        return made

    run._backward = backward


def norm(value):
    return backend.xp.asarray(value, dtype="float64")


@pytest.mark.usefixtures("any_backend", "half")
def test_what_it_learns_from_each_step():
    scale = LossScale(1000, patience=3)

    def after(*norms):
        for value in norms:
            scale.update(norm(value))
        return float(backend.to_numpy(scale.scale))

    assert after() == 512  # 2^9 <= 1000
    assert after(1.0, 2.0) == 512
    assert after(0.0) == 1024  # three good ones in a row
    assert after(1.0, 1.0, math.inf) == 512
    assert after(1.0, 1.0) == 512  # counted anew
    assert after(math.nan, math.nan) == 128
    assert after(1.0, 1.0, 1.0) == 256
    scale.scale[...] = LARGEST
    assert after(1.0, 1.0, 1.0) == LARGEST


def test_gradients_are_those_without_it_bit_for_bit(half):
    minddpm.set_backend("numpy")
    x = np.random.default_rng(0).standard_normal(5).astype(np.float32)
    grads = []
    for scale in (1.0, 2.0**13):
        leaf = Tensor(x, requires_grad=True)
        leaf.grad = np.zeros_like(x)
        scales = LossScale(8)
        scales.scale[...] = scale
        scales.backward((leaf * leaf * leaf).mean(), leaf.grad)
        grads.append(leaf.grad)
    np.testing.assert_array_equal(*grads)
    np.testing.assert_allclose(grads[0], 3 * x**2 / 5, rtol=1e-6)


@pytest.mark.usefixtures("half")
def test_training_goes_on_after_an_overflow(tmp_path):
    run = trainer(tmp_path, steps=6)
    start = float(run.loss_scale.scale)
    overflowing(run, start / 8)
    before = run.optimizer.flat.data.copy()
    for _ in range(3):
        run.train_step()
    np.testing.assert_array_equal(run.optimizer.flat.data, before)
    run.train_step()
    assert (run.optimizer.flat.data != before).any()
    again = trainer(tmp_path / "again", steps=6)
    overflowing(again, start / 8)
    assert again.train(progress=False)
    rows = read_loss(tmp_path / "again" / LOSS)
    assert all(math.isfinite(row["loss"]) for row in rows)
    assert [math.isfinite(row["grad_norm"]) for row in rows] == [False, True, True]


@pytest.mark.usefixtures("half")
def test_gradients_that_no_scale_mends_end_the_training(tmp_path):
    run = trainer(tmp_path, steps=100)
    overflowing(run, 0.0)
    with pytest.raises(TrainingDivergedError, match="not finite"):
        run.train(progress=False)
    assert run.step < 20


def test_without_half_an_infinite_gradient_ends_the_training(tmp_path):
    run = trainer(tmp_path)
    overflowing(run, 0.0)
    with pytest.raises(TrainingDivergedError):
        run.train(progress=False)
    assert "loss_scale" not in run.state()


def test_a_run_goes_on_with_the_scale_that_it_had(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LossScale, "needed", staticmethod(lambda: True))
        run = trainer(tmp_path)
        run.loss_scale.scale[...] = 2.0
        run.train_step()
        run.save()
        again = trainer(tmp_path)
        assert again.resume() == 1
        assert (float(again.loss_scale.scale), float(again.loss_scale.good)) == (2.0, 1.0)
    # and in another precision, there and back
    single = trainer(tmp_path)
    assert single.resume() == 1
    single.train_step()
    single.save()
    monkeypatch.setattr(LossScale, "needed", staticmethod(lambda: True))
    half = trainer(tmp_path)
    assert half.resume() == 2
    assert float(half.loss_scale.scale) == 2.0**8
