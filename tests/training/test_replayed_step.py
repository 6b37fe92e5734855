"""A whole training step that replays: losses, weights and moments are those of eager training."""

import gc
import weakref
from functools import partial
from unittest import mock

import numpy as np
import pytest
import stepping
from builders import WIDE
from stepping import CASES, IN_PART, check_stages, check_steps, eager, stages, step

import minddpm
from minddpm import backend

minddpm.set_backend("numba")

from minddpm.kernels.cpu import record, threads  # noqa: E402

pytestmark = pytest.mark.usefixtures("numba_with_its_threads")
trainer = partial(stepping.trainer, WIDE)


@pytest.mark.parametrize("case", [*CASES, *IN_PART])
def test_everything_is_as_in_eager_training(tmp_path, case):
    replaying, expected = trainer(tmp_path, case), eager(trainer(tmp_path, case))
    check_steps(replaying, expected, 6)
    check_stages(replaying, case)


def test_a_step_is_one_native_call(tmp_path):
    made = trainer(tmp_path, "dropout and classes")
    for _ in range(2):
        made.train_step()
    with (
        mock.patch.object(threads, "run", side_effect=AssertionError("a task alone")),
        mock.patch.object(threads, "run_list", wraps=threads.run_list) as run_list,
    ):
        for _ in range(3):
            made.train_step()
    assert run_list.call_count == 3


def test_any_number_of_threads_gives_the_same_weights(tmp_path):
    results = []
    for n in (1, 2, 3, 4):
        backend.set_threads(n)
        made = trainer(tmp_path, "dropout", batch=5)
        results.append([step(made) for _ in range(5)])
        assert stages(made) == ["replay"]
    assert all(result == results[0] for result in results)


def test_a_change_is_recorded_anew(tmp_path):
    """Another number of threads, or another mode; weights never move to other arrays."""
    replaying, expected = trainer(tmp_path, "dropout"), eager(trainer(tmp_path, "dropout"))

    changes = [
        lambda made: None,
        lambda made: threads.set_threads(3),
        lambda made: made.unet.eval(),
        lambda made: made.unet.train(),
    ]
    for change in changes:
        for made in (replaying, expected):
            change(made)
        check_steps(replaying, expected, 4)
        assert "replay" in stages(replaying)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("when", ["repeat", "replay"])
def test_an_interrupted_comparison_leaves_nothing_changed(tmp_path, error, when):
    replaying, expected = trainer(tmp_path), eager(trainer(tmp_path))
    assert step(replaying) == step(expected)
    expected.train_step()
    with mock.patch.object(record.Record, when, side_effect=error):
        try:
            replaying.train_step()
        except KeyboardInterrupt:
            # The recorded step was complete; the trainer has not counted it yet.
            assert error is KeyboardInterrupt
            replaying.step, replaying.optimizer.steps = expected.step, expected.optimizer.steps
    for one, other in zip(
        replaying.optimizer.arrays(replaying.ema),
        expected.optimizer.arrays(expected.ema),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)
    check_steps(replaying, expected, 3)


def test_a_single_timestep_is_no_error(tmp_path):
    """The comparison finds no other t that is allowed."""
    replaying, expected = trainer(tmp_path, T=1), eager(trainer(tmp_path, T=1))
    check_steps(replaying, expected, 4)


@pytest.mark.parametrize("case", ["plain", *IN_PART])
def test_a_trial_changes_nothing(tmp_path, case):
    tried, expected = trainer(tmp_path, case), eager(trainer(tmp_path, case))
    for _ in range(4):
        tried.trial()
        assert step(tried) == step(expected)


def test_a_trainer_is_freed_with_its_last_reference(tmp_path):
    """Its memory and its lock would otherwise stay until Python collects cycles."""
    made = trainer(tmp_path)
    for _ in range(4):
        made.train_step()
    freed = weakref.ref(made)
    gc.disable()
    try:
        del made
        assert freed() is None
    finally:
        gc.enable()


def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path):
    made = trainer(tmp_path)
    for _ in range(3):
        made.train_step()
    arrays = made.optimizer.flat.data, made.optimizer.m, made.ema.average
    made.unet.conv_out.bias.data[...] = np.inf
    before = [a.copy() for a in arrays]
    assert not np.isfinite(made.train_step().squared_norm)
    for array, value in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, value)
    assert stages(made) == ["replay"]
