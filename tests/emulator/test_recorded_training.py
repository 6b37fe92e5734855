"""A whole training step as one CUDA graph, on the stand-in: bit-equal to eager training."""

import gc
import weakref
from functools import partial

import numpy as np
import pytest
import stepping
from builders import TINY
from cuda_checks import needs_compiler
from stepping import CASES, IN_PART, check_stages, check_steps, eager, stages, step

from minddpm import backend
from minddpm.kernels.emulator.cupy_on_cpu.cuda import emulation
from minddpm.training import ddpm

pytestmark = [needs_compiler, pytest.mark.usefixtures("xp")]
trainer = partial(stepping.trainer, TINY)


@pytest.mark.parametrize("case", [*CASES, *IN_PART])
def test_everything_is_as_in_eager_training(tmp_path, case):
    replaying, expected = trainer(tmp_path, case), eager(trainer(tmp_path, case))
    check_steps(replaying, expected, 5)
    check_stages(replaying, case)


@pytest.mark.parametrize("precision", ["tf32", "fp16", "bf16"])
def test_other_precisions(tmp_path, precision):
    """In half precision the loss scale is part of the graph."""
    backend.set_precision(precision)
    replaying, expected = trainer(tmp_path), eager(trainer(tmp_path))
    for made in (replaying, expected):
        made.loss_scale.patience = 2
    check_steps(replaying, expected, 5)
    assert stages(replaying) == ["replay"]
    assert (float(replaying.loss_scale.scale) != 256) == (precision == "fp16")


@pytest.mark.parametrize("case", ["dropout and classes", "muon"])
def test_a_step_is_one_launch(tmp_path, xp, case):
    made = trainer(tmp_path, case)
    for _ in range(2):
        made.train_step()
    xp.stats.reset()
    records = [made.train_step() for _ in range(3)]
    assert (xp.stats.launches, xp.stats.graph_launches, xp.stats.raw_launches) == (3, 3, 0)
    assert (xp.stats.synchronisations, xp.stats.to_host, xp.stats.pageable_to_device) == (0, 0, 0)
    # The images, and all else that comes from the host together.
    assert xp.stats.to_device == 3 * 2
    made.row(records)
    assert (xp.stats.synchronisations, xp.stats.to_host) == (1, 1)


@pytest.mark.parametrize("order", [1, 2])
def test_any_order_of_threads_gives_the_same_weights(tmp_path, monkeypatch, order):
    results = []
    for emulation_order in (0, order):
        monkeypatch.setattr(emulation, "order", emulation_order)
        made = trainer(tmp_path, "dropout")
        results.append([step(made) for _ in range(4)])
    assert results[0] == results[1]


def test_a_recorded_step_passes_the_race_mode(tmp_path, monkeypatch):
    monkeypatch.setattr(emulation, "mode", "race")
    made = trainer(tmp_path, "dropout and classes")
    for _ in range(4):
        made.train_step()
    assert stages(made) == ["replay"]


def test_another_mode_is_recorded_anew(tmp_path):
    replaying, expected = trainer(tmp_path, "dropout"), eager(trainer(tmp_path, "dropout"))
    for training in (True, False, True):
        for made in (replaying, expected):
            made.unet.train(training)
        check_steps(replaying, expected, 3)
    assert stages(replaying) == ["replay", "replay"]


def test_what_the_host_computes_is_not_replayed(tmp_path, monkeypatch):
    """A number that changes from step to step without being an input: the step stays eager."""
    host = []

    def manual_seed(seed, step, first):
        host.append(step)
        right(seed, step, first)

    right = ddpm.random.manual_seed
    monkeypatch.setattr(ddpm.random, "manual_seed", manual_seed)
    made = trainer(tmp_path)
    monkeypatch.setattr(
        made.diffusion, "target", lambda x0, t, noise: noise * (1 + len(host) % 2), raising=False
    )
    for _ in range(4):
        made.train_step()
    assert stages(made) == ["eager"]


def test_a_trial_changes_nothing(tmp_path):
    tried, expected = trainer(tmp_path), eager(trainer(tmp_path))
    for _ in range(4):
        tried.trial()
        assert step(tried) == step(expected)


def test_a_trainer_is_freed_with_its_last_reference(tmp_path, xp):
    pool = xp.get_default_memory_pool()
    before = pool.used_bytes()
    made = trainer(tmp_path)
    for _ in range(4):
        made.train_step()
    freed = weakref.ref(made), weakref.ref(made.replay)
    gc.disable()
    try:
        del made
        assert [reference() for reference in freed] == [None, None]
        assert pool.used_bytes() == before
    finally:
        gc.enable()


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path):
    made = trainer(tmp_path)
    for _ in range(3):
        made.train_step()
    arrays = made.optimizer.flat.data, made.optimizer.m, made.ema.average
    made.unet.conv_out.bias.data[...] = np.inf
    before = [a.get() for a in arrays]
    assert not np.isfinite(made.train_step().squared_norm.get())
    for array, value in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array.get(), value)
    assert stages(made) == ["replay"]
