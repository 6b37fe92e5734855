"""Training a DDPM: resuming is bit-exact, the loss falls, and the ways in which a run can end."""

import math
import os
import signal

import numpy as np
import pytest
from builders import TINIEST, make_trainer, noise_images, read_files, tiny_run

import minddpm
from minddpm.commands import training_run
from minddpm.training.ddpm import TrainingDivergedError, TrainingOptions
from minddpm.training.run_directory import LOSS, LOSS_COLUMNS, read_loss
from refusals import refused


@pytest.mark.parametrize("optimizer", ["adam", "muon"])
def test_resuming_is_bit_exact(any_backend, tmp_path, optimizer):
    """6 + 6 steps equal 12 steps: weights, moments, average, and the loss of every step."""
    reference = tiny_run(tmp_path / "reference", steps=12, optimizer=optimizer)
    assert reference.train(progress=False)

    first = tiny_run(tmp_path / "parts", steps=6, optimizer=optimizer)
    assert first.train(progress=False)
    second = tiny_run(tmp_path / "parts", steps=12, optimizer=optimizer)
    assert second.resume() == 6
    assert second.train(progress=False)

    assert read_files(tmp_path / "parts") == read_files(tmp_path / "reference")
    rows = read_loss(tmp_path / "reference" / LOSS)
    assert [row["step"] for row in rows] == [2, 3, 4, 6, 8, 9, 10, 12]


@pytest.mark.parametrize("options", [{"loss": "hybrid"}, {"loss": "vlb"}])
def test_resuming_is_bit_exact_with_importance_sampling(any_backend, tmp_path, options):
    """With few t, so that the second part draws t by the losses of the first part."""
    options = {"T": 21, "importance_sampling": True, "batch_size": 20, **options}
    reference = tiny_run(tmp_path / "reference", steps=12, **options)
    for _ in range(9):  # as if almost ten losses of each t were known
        reference.importance.update(np.arange(21), np.linspace(2, 1, 21))
    first = tiny_run(tmp_path / "parts", steps=6, **options)
    first.importance.losses[:] = reference.importance.losses
    assert reference.train(progress=False)
    assert not (reference.importance.probabilities() == 1 / 21).all()
    assert first.train(progress=False)
    second = tiny_run(tmp_path / "parts", steps=12, **options)
    assert second.resume() == 6
    np.testing.assert_array_equal(second.importance.losses, first.importance.losses)
    assert second.train(progress=False)
    assert read_files(tmp_path / "parts") == read_files(tmp_path / "reference")


def test_a_learned_variance_needs_a_loss_that_teaches_it(tmp_path):
    unet = minddpm.UNet2D(**{**TINIEST, "out_channels": 2})
    with refused("learned_range", "hybrid"):
        make_trainer(tmp_path, unet, noise_images(20), variance="learned_range")
    with refused("unknown loss", "hybrid"):
        TrainingOptions(loss="kl")


def test_the_seed_decides_the_run(tmp_path):
    one, other = (tiny_run(tmp_path / str(seed), steps=2, seed=seed) for seed in (0, 1))
    assert one.train_step().losses.tolist() != other.train_step().losses.tolist()


def test_the_loss_falls(tmp_path):
    """Twenty images of noise can be memorised well enough for the loss to fall."""
    run = tiny_run(tmp_path / "run", steps=60, lr=3e-3)
    losses = [run.train_step().losses.mean() for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_quartiles_average_to_the_loss(tmp_path):
    run = tiny_run(tmp_path / "run", steps=4, log_every=4, checkpoint_every=4)
    seen = []
    step = run.train_step
    run.train_step = lambda: seen.append(step()) or seen[-1]
    run.train(progress=False)
    (row,) = read_loss(run.run.path / LOSS)
    losses = np.concatenate([record.losses for record in seen])
    quartile = np.concatenate([record.t for record in seen]) * 4 // 50
    assert row["loss"] == pytest.approx(losses.mean(), rel=1e-5)
    for q in range(4):
        if (quartile == q).any():
            assert row[f"loss_q{q + 1}"] == pytest.approx(losses[quartile == q].mean(), rel=1e-5)
    assert row["grad_norm"] == pytest.approx(
        np.mean([math.sqrt(record.squared_norm) for record in seen]), rel=1e-5
    )
    assert tuple(row) == LOSS_COLUMNS


def test_the_rate_falls_at_the_end_of_a_resumed_run_too(tmp_path):
    reference = tiny_run(tmp_path / "reference", steps=8, warmup_steps=2, cooldown=0.5, log_every=1)
    assert reference.train(progress=False)
    rates = [row["lr"] for row in read_loss(tmp_path / "reference" / LOSS)]
    np.testing.assert_allclose(rates, 1e-2 * np.array([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]))

    assert tiny_run(tmp_path / "parts", steps=4, warmup_steps=2, log_every=1).train(progress=False)
    second = tiny_run(tmp_path / "parts", steps=8, warmup_steps=2, cooldown=0.5, log_every=1)
    assert second.resume() == 4
    assert second.train(progress=False)
    assert read_files(tmp_path / "parts") == read_files(tmp_path / "reference")


def test_a_cooled_run_goes_back_before_its_cooldown_to_become_longer(tmp_path, monkeypatch):
    """Also if the process is killed before its next checkpoint."""
    reference = tiny_run(tmp_path / "reference", steps=12, cooldown=0.25, log_every=1)
    assert reference.train(progress=False)
    assert tiny_run(tmp_path / "parts", steps=8, cooldown=0.5, log_every=1).train(progress=False)
    second = tiny_run(tmp_path / "parts", steps=12, cooldown=0.25, log_every=1)
    assert second.resume() == 8
    monkeypatch.setattr(second.run, "read_info", lambda: ({"steps": 8, "cooldown": 0.5}, {}))
    training_run.check_cooldown(second)
    assert second.step == 4
    third = tiny_run(tmp_path / "parts", steps=12, cooldown=0.25, log_every=1)
    assert third.resume() == 4
    assert third.train(progress=False)
    assert read_files(tmp_path / "parts") == read_files(tmp_path / "reference")


def test_clipping_bounds_the_step(tmp_path):
    """With a clip norm near 0, Adam's eps = 1e-8 dominates and the weights hardly move."""
    free, clipped = (tiny_run(tmp_path / str(c), steps=9, clip_norm=c) for c in (1.0, 1e-12))
    for run in (free, clipped):
        before = run.optimizer.flat.data.copy()
        run.train_step()
        run.moved = np.abs(run.optimizer.flat.data - before).max()
    assert clipped.moved < 1e-3 * free.moved


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    run = tiny_run(tmp_path / "run", steps=9)
    for _ in range(3):
        run.train_step()
    run.save()
    before = read_files(tmp_path / "run")
    name = "mid_block.resnets.0.conv1.weight"
    weight = dict(run.unet.named_parameters())[name]
    weight.data[0, 0, 0, 0] = math.nan
    weights = run.optimizer.flat.data.copy()
    with pytest.raises(TrainingDivergedError, match=rf"step 3.*nan.*{name}.*--lr"):
        run.train(progress=False)
    np.testing.assert_array_equal(run.optimizer.flat.data, weights)
    after = read_files(tmp_path / "run")
    assert {k: v for k, v in after.items() if k.name != LOSS} == {
        k: v for k, v in before.items() if k.name != LOSS
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_saves(tmp_path, number):
    run = tiny_run(tmp_path / "run", steps=1000)
    step = run.train_step

    def interrupted_at_step_5():
        if run.step == 4:
            os.kill(os.getpid(), number)
        return step()

    run.train_step = interrupted_at_step_5
    previous = signal.getsignal(number)
    assert run.train(progress=False) is False
    assert signal.getsignal(number) == previous
    assert tiny_run(tmp_path / "run", steps=1000).resume() == 5
    assert read_loss(tmp_path / "run" / LOSS)[-1]["step"] == 5


def test_the_pipeline_holds_the_average(tmp_path):
    run = tiny_run(tmp_path / "run", steps=5)
    run.train(progress=False)
    saved = minddpm.UNet2D.from_pretrained(tmp_path / "run")
    with run.ema.applied():
        for (name, p), (_, q) in zip(
            run.unet.named_parameters(), saved.named_parameters(), strict=True
        ):
            np.testing.assert_array_equal(p.data, q.data, err_msg=name)
