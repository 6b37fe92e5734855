"""The loop: resuming bit for bit, clipping and averaging, and the ways in which a run can end."""

import json
import math
import os
import random as stdlib_random
import signal
import time

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import minddpm
from minddpm import InputError, backend, nn
from minddpm.data import ImageDataset
from minddpm.training.ddpm import Trainer, TrainingDivergedError, TrainingOptions
from minddpm.training.run_directory import LOSS, LOSS_COLUMNS, RUN, STATE, RunDirectory, read_loss
from refusals import refused

TINY = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (4, 8),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "dropout": 0.1,
}
DATA = ImageDataset(
    np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8), None, "noise"
)


def trainer(path, **options):
    minddpm.manual_seed(options.get("seed", 0))
    learned = options.get("loss", "simple") != "simple"
    unet = minddpm.UNet2D(**{**TINY, "out_channels": 2 if learned else 1})
    diffusion = minddpm.GaussianDiffusion(
        minddpm.schedules.linear(options.pop("T", 50)),
        variance="learned_range" if learned else "fixed_small",
    )
    run = RunDirectory(path)
    options = {"batch_size": 4, "lr": 1e-2, "log_every": 2, "checkpoint_every": 3, **options}
    result = Trainer(unet, diffusion, DATA, run, TrainingOptions(**options))
    if not (path / RUN).exists():
        run.check_new(0)
        run.write_info({}, DATA.identity())
    return result


def files(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob("*") if p.is_file()}


def test_resuming_is_bit_exact(any_backend, tmp_path):
    """6 + 6 steps equal 12 steps: weights, moments, average, and the loss of every step."""
    whole = trainer(tmp_path / "whole", steps=12)
    assert whole.train(progress=False)

    first = trainer(tmp_path / "parts", steps=6)
    assert first.train(progress=False)
    second = trainer(tmp_path / "parts", steps=12)
    assert second.resume() == 6
    assert second.train(progress=False)

    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    assert [row["step"] for row in read_loss(tmp_path / "whole" / LOSS)] == [
        2,
        3,
        4,
        6,
        8,
        9,
        10,
        12,
    ]


@pytest.mark.parametrize("options", [{"loss": "hybrid"}, {"loss": "vlb"}])
def test_resuming_is_bit_exact_with_importance_sampling(any_backend, tmp_path, options):
    """Of few t, so that the second part draws by what the first one has seen."""
    options = {"T": 21, "importance_sampling": True, "batch_size": 20, **options}
    whole = trainer(tmp_path / "whole", steps=24, **options)
    for _ in range(3):  # as if each t had been seen ten times, nearly
        for _ in range(3):
            whole.importance.update(np.arange(21), np.linspace(2, 1, 21))
    first = trainer(tmp_path / "parts", steps=12, **options)
    first.importance.losses[:] = whole.importance.losses
    assert whole.train(progress=False)
    assert not (whole.importance.probabilities() == 1 / 21).all()
    assert first.train(progress=False)
    second = trainer(tmp_path / "parts", steps=24, **options)
    assert second.resume() == 12
    np.testing.assert_array_equal(second.importance.losses, first.importance.losses)
    assert second.train(progress=False)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_a_learned_variance_needs_a_loss_that_teaches_it(tmp_path):
    d = minddpm.GaussianDiffusion(minddpm.schedules.linear(50), variance="learned_range")
    unet = minddpm.UNet2D(**{**TINY, "out_channels": 2})
    with refused("learned_range", "hybrid"):
        Trainer(unet, d, DATA, RunDirectory(tmp_path), TrainingOptions())
    with refused("unknown loss", "hybrid"):
        TrainingOptions(loss="kl")


def test_the_seed_decides_the_run(tmp_path):
    one, other = (trainer(tmp_path / str(seed), steps=2, seed=seed) for seed in (0, 1))
    assert one.train_step().losses.tolist() != other.train_step().losses.tolist()


def test_the_loss_falls(tmp_path):
    """Twenty pictures of noise can be learned by heart well enough to beat the start."""
    run = trainer(tmp_path / "run", steps=60, lr=3e-3)
    losses = [run.train_step().losses.mean() for _ in range(60)]
    assert np.mean(losses[-10:]) < 0.8 * np.mean(losses[:10])


def test_quartiles_average_to_the_whole(tmp_path):
    run = trainer(tmp_path / "run", steps=4, log_every=4, checkpoint_every=4)
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


def test_the_rate_falls_at_the_end_also_of_a_run_that_went_on(tmp_path):
    whole = trainer(tmp_path / "whole", steps=8, warmup_steps=2, cooldown=0.5, log_every=1)
    assert whole.train(progress=False)
    rates = [row["lr"] for row in read_loss(tmp_path / "whole" / LOSS)]
    np.testing.assert_allclose(rates, 1e-2 * np.array([0.5, 1, 1, 1, 1, 0.75, 0.5, 0.25]))

    assert trainer(tmp_path / "parts", steps=4, warmup_steps=2, log_every=1).train(progress=False)
    second = trainer(tmp_path / "parts", steps=8, warmup_steps=2, cooldown=0.5, log_every=1)
    assert second.resume() == 4
    assert second.train(progress=False)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")


def test_warmup_clipping_and_the_average():
    assert [nn.warmup_lr(1.0, s, 4) for s in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert nn.warmup_lr(1.0, 0, 0) == 1
    assert [nn.cooldown(s, 6, 2) for s in range(6)] == [1, 1, 1, 0.75, 0.5, 0.25]
    assert [nn.cooldown(s, 6, 6) for s in range(6)] == [1] * 6

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
    def walk(together):
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
        return minddpm.backend.to_numpy(p.data), minddpm.backend.to_numpy(ema.average)

    for one, other in zip(walk(together=True), walk(together=False), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_average_of_other_parameters_is_refused():
    ours, others = (nn.Adam([nn.Parameter(np.zeros(3, np.float32))]) for _ in range(2))
    with pytest.raises(ValueError, match="other parameters"):
        ours.step(ema=nn.EMA(others.flat))
    assert ours.steps == 0


def test_clipping_bounds_the_step(tmp_path):
    """With a clip norm near 0, eps = 1e-8 of Adam dominates and the weights stay where they are."""
    free, held = (trainer(tmp_path / str(c), steps=9, clip_norm=c) for c in (1.0, 1e-12))
    for run in (free, held):
        before = run.optimizer.flat.data.copy()
        run.train_step()
        run.moved = np.abs(run.optimizer.flat.data - before).max()
    assert held.moved < 1e-3 * free.moved


def test_parameters_stay_in_the_flat_buffer():
    """However a user assigns, the optimiser sees it."""
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


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    run = trainer(tmp_path / "run", steps=9)
    for _ in range(3):
        run.train_step()
    run.save()
    before = files(tmp_path / "run")
    name = "mid_block.resnets.0.conv1.weight"
    weight = dict(run.unet.named_parameters())[name]
    weight.data[0, 0, 0, 0] = math.nan
    weights = run.optimizer.flat.data.copy()
    with pytest.raises(TrainingDivergedError, match=rf"step 3.*nan.*{name}.*--lr"):
        run.train(progress=False)
    np.testing.assert_array_equal(run.optimizer.flat.data, weights)
    after = files(tmp_path / "run")
    assert {k: v for k, v in after.items() if k.name != LOSS} == {
        k: v for k, v in before.items() if k.name != LOSS
    }


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_finishes_the_step_and_saves(tmp_path, number):
    run = trainer(tmp_path / "run", steps=1000)
    step = run.train_step

    def interrupted_at_step_5():
        if run.step == 4:
            os.kill(os.getpid(), number)
        return step()

    run.train_step = interrupted_at_step_5
    previous = signal.getsignal(number)
    assert run.train(progress=False) is False
    assert signal.getsignal(number) == previous
    assert trainer(tmp_path / "run", steps=1000).resume() == 5
    assert read_loss(tmp_path / "run" / LOSS)[-1]["step"] == 5


def test_the_pipeline_holds_the_average(tmp_path):
    run = trainer(tmp_path / "run", steps=5)
    run.train(progress=False)
    saved = minddpm.UNet2D.from_pretrained(tmp_path / "run")
    with run.ema.applied():
        for (name, p), (_, q) in zip(
            run.unet.named_parameters(), saved.named_parameters(), strict=True
        ):
            np.testing.assert_array_equal(p.data, q.data, err_msg=name)


# --- killed --------------------------------------------------------------------------------------


def checkpoint_for_ever(path):
    """What the killed process does: from the checkpoint on, one step and one checkpoint, endlessly.

    Instead of the network's gradient each step adds 1 to every weight: all arrays of a whole
    checkpoint are then equal to its step.
    """
    run = trainer(path, steps=10**9)
    run.resume()
    while True:
        run.step += 1
        for flat in (run.optimizer.flat.data, run.ema.average, run.optimizer.m, run.optimizer.v):
            flat[...] = run.step
        run.save()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fifty_kills_while_saving_leave_a_whole_checkpoint(tmp_path):
    path = tmp_path / "run"
    trainer(path)
    chance = stdlib_random.Random(0)
    steps = [0]
    for _ in range(50):
        child = os.fork()
        if child == 0:
            try:
                checkpoint_for_ever(path)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0.01, 0.12))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

        run = trainer(path)
        step = run.resume()
        if step:
            for group in run.state().values():
                assert all((array == step).all() for array in group.values())
        steps.append(step)
        assert not list(path.rglob(".*.tmp"))
    assert steps == sorted(steps)
    assert steps[-1] > 25  # the kills did come while checkpoints were being written


# --- bad input -----------------------------------------------------------------------------------


def test_a_run_is_not_overwritten(tmp_path):
    trainer(tmp_path / "run")
    before = files(tmp_path / "run")
    with pytest.raises(InputError, match=r"--resume, or choose another --out"):
        RunDirectory(tmp_path / "run").check_new(0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="choose another --out"):
        RunDirectory(tmp_path / "other").check_new(0)
    assert files(tmp_path / "run") == before
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_an_output_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose"):
        RunDirectory(tmp_path / "file" / "run").check_new(0)


def test_a_full_disk_is_refused_first(tmp_path):
    with pytest.raises(InputError, match=r"needs 1000000000 MB"):
        RunDirectory(tmp_path / "run").check_new(10**15)
    assert files(tmp_path) == {}


def test_nothing_to_resume(tmp_path):
    with pytest.raises(InputError, match="no run to resume"):
        RunDirectory(tmp_path).read_info()
    (tmp_path / RUN).write_text(json.dumps([1]))
    with pytest.raises(InputError, match="no JSON object"):
        RunDirectory(tmp_path).read_info()


def test_a_checkpoint_of_another_architecture(tmp_path):
    run = trainer(tmp_path / "run", steps=1)
    run.train(progress=False)
    tensors = load_file(tmp_path / "run" / STATE)
    name = "raw/conv_in.weight"
    save_file({**tensors, name: tensors[name][..., :2]}, tmp_path / "run" / STATE)
    with pytest.raises(InputError, match=r"raw/conv_in\.weight.*another architecture"):
        trainer(tmp_path / "run").resume()


def test_a_missing_checkpoint_of_a_trained_run_is_no_new_start(tmp_path):
    """Beginning anew would overwrite the model in unet/ with an untrained one."""
    run = trainer(tmp_path / "run", steps=2)
    run.train(progress=False)
    (tmp_path / "run" / STATE).unlink()
    with pytest.raises(InputError, match=f"{STATE} is missing"):
        trainer(tmp_path / "run").resume()


def test_a_log_that_cannot_be_written_says_so(tmp_path):
    run = trainer(tmp_path / "run", steps=9)
    step = run.train_step

    def full_disk():
        if run.step == 0:
            (tmp_path / "run" / LOSS).unlink()
            (tmp_path / "run" / LOSS).mkdir()
        return step()

    run.train_step = full_disk
    with pytest.raises(InputError, match="could not be written"):
        run.train(progress=False)


def test_a_truncated_checkpoint(tmp_path):
    run = trainer(tmp_path / "run", steps=1)
    run.train(progress=False)
    path = tmp_path / "run" / STATE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        trainer(tmp_path / "run").resume()


def test_a_torn_last_line_of_the_log_is_dropped(tmp_path):
    run = trainer(tmp_path / "run", steps=4)
    run.train(progress=False)
    path = tmp_path / "run" / LOSS
    whole = read_loss(path)
    for torn in ("5", "5,0.12", "5,0.12,0.1,0.1,0.1,0.1,1.2,0.00"):
        path.write_text(path.read_text() + torn)
        assert str(read_loss(path)) == str(whole)  # as text, where nan equals nan
        path.write_text(path.read_text()[: -len(torn)])
