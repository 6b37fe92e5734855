"""Loss scaling in half precision: how the scale adapts, and that training continues."""

import math

import numpy as np
import pytest
from builders import (
    FEW,
    NO_ATTENTION,
    TINY,
    make_gan_loop,
    make_trainer,
    make_vae_loop,
    noise_images,
    random_unet,
)

import minddpm
from minddpm import Tensor, backend
from minddpm.baselines.gan.training import GANLoop
from minddpm.training.loop import TrainingDivergedError
from minddpm.training.loss_scale import LARGEST, SMALLEST, LossScale
from minddpm.training.run_directory import LOSS, read_loss

CONFIG = {**TINY, **NO_ATTENTION, "block_out_channels": (8, 8)}


@pytest.fixture
def half(monkeypatch):
    """Pretend that something is computed in half precision, on every backend."""
    monkeypatch.setattr(LossScale, "needed", staticmethod(lambda: True))


def ddpm(path, steps=4):
    minddpm.set_backend("numpy")
    minddpm.manual_seed(0)
    return make_trainer(path, minddpm.UNet2D(**CONFIG), noise_images(12), T=40, steps=steps, **FEW)


def vae(path, steps=4):
    minddpm.set_backend("numpy")
    return make_vae_loop(path, steps, latent=2)


def gan(path, steps=4):
    minddpm.set_backend("numpy")
    return make_gan_loop(path, steps, latent=2)


LOOPS = [ddpm, vae, gan]


def scales(run):
    return [run.scale_g, run.scale_d] if isinstance(run, GANLoop) else [run.loss_scale]


def weights(run):
    optimizer = run.optimizer_g if isinstance(run, GANLoop) else run.optimizer
    return optimizer.flat.data.copy()


def overflowing(monkeypatch, limit):
    """Make every gradient infinite while the scale is above the limit, as in half precision."""
    original = LossScale.unscale

    def unscale(self, gradients):
        original(self, gradients)
        if self.scale > limit:
            gradients[0] = np.inf

    monkeypatch.setattr(LossScale, "unscale", unscale)


def norm(value):
    return backend.xp.asarray(value, dtype="float64")


@pytest.mark.usefixtures("any_backend", "half")
def test_the_scale_adapts_after_each_step():
    scale = LossScale(1000, patience=3)

    def after(*norms):
        for value in norms:
            scale.update(norm(value))
        return float(backend.to_numpy(scale.scale))

    assert after() == 512  # 2^9 <= 1000
    assert after(1.0, 2.0) == 512
    assert after(0.0) == 1024  # three good steps in a row
    assert after(1.0, 1.0, math.inf) == 512
    assert after(1.0, 1.0) == 512  # counted from 0 again
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
        scales.backward((leaf * leaf * leaf).mean())
        scales.unscale(leaf.grad)
        grads.append(leaf.grad)
    np.testing.assert_array_equal(*grads)
    np.testing.assert_allclose(grads[0], 3 * x**2 / 5, rtol=1e-6)


@pytest.mark.usefixtures("half")
def test_parts_of_a_batch_have_its_gradient(tmp_path):
    norms = []
    for parts in (1, 2, 4):
        minddpm.manual_seed(0)
        loop = make_trainer(
            tmp_path / str(parts), random_unet(scale=0.1), noise_images(9), batch_size=8,
            accumulate=parts,
        )  # fmt: skip
        norms.append(float(loop.train_step().squared_norm))
    np.testing.assert_allclose(norms, norms[0], rtol=1e-5)


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("make", LOOPS)
def test_training_continues_after_an_overflow(make, tmp_path, monkeypatch):
    run = make(tmp_path / "a", steps=6)
    limit = scales(run)[0].scale / 8
    overflowing(monkeypatch, limit)
    before = weights(run)
    for _ in range(3):
        run.train_step()
    np.testing.assert_array_equal(weights(run), before)
    run.train_step()
    assert (weights(run) != before).any()
    again = make(tmp_path / "b", steps=6)
    assert again.train(progress=False)
    rows = read_loss(tmp_path / "b" / LOSS, ("step", *again.columns))
    for name in again.columns:
        finite = [math.isfinite(row[name]) for row in rows]
        if name.startswith("grad_norm"):
            assert finite == [False, True, True]
        elif not name.startswith("loss_q"):  # nan if no t was in that quarter
            assert all(finite), name


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("make", LOOPS)
def test_gradients_that_overflow_at_every_scale_end_the_training(make, tmp_path, monkeypatch):
    run = make(tmp_path, steps=100)
    overflowing(monkeypatch, 0.0)
    with pytest.raises(TrainingDivergedError, match="not finite"):
        run.train(progress=False)
    assert run.step <= 40  # from 2^8, or less, down to 2^-24
    assert not any(scale.scale < SMALLEST for scale in scales(run))


@pytest.mark.parametrize("make", LOOPS)
def test_without_half_an_infinite_gradient_ends_the_training(make, tmp_path, monkeypatch):
    run = make(tmp_path)
    overflowing(monkeypatch, 0.0)
    with pytest.raises(TrainingDivergedError):
        run.train(progress=False)
    assert run.step <= 2
    assert not any("loss_scale" in group for group in run.state())


@pytest.mark.parametrize("make", LOOPS)
def test_a_resumed_run_has_the_scale_that_was_saved(make, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(LossScale, "needed", staticmethod(lambda: True))
        run = make(tmp_path)
        initial = [float(scale.scale) for scale in scales(run)]
        for scale in scales(run):
            scale.scale[...] = 2.0
        run.train_step()
        run.save()
        again = make(tmp_path)
        assert again.resume() == 1
        for scale in scales(again):
            assert (float(scale.scale), float(scale.good)) == (2.0, 1.0)
    # In another precision, and back again.
    single = make(tmp_path)
    assert single.resume() == 1
    single.train_step()
    single.save()
    monkeypatch.setattr(LossScale, "needed", staticmethod(lambda: True))
    half = make(tmp_path)
    assert half.resume() == 2
    assert [float(scale.scale) for scale in scales(half)] == initial
