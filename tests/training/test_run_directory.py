"""A run directory: kills leave a complete checkpoint, and bad input is refused."""

import json
import os
import random
import signal
import time

import pytest
from builders import read_files, tiny_run
from safetensors.numpy import load_file, save_file

from minddpm import InputError
from minddpm.training.run_directory import (
    BEFORE_COOLDOWN,
    LOSS,
    RUN,
    STATE,
    RunDirectory,
    read_loss,
)

# --- killed --------------------------------------------------------------------------------------


def checkpoint_forever(path, resumed):
    """Resume, then do one step and write one checkpoint, until the process is killed.

    resumed: file descriptor that gets a byte when the run has resumed.

    Instead of training, each step sets all arrays to its number, so that every array of a complete
    checkpoint equals its step.
    """
    run = tiny_run(path, steps=10**9)
    run.resume()
    os.write(resumed, b"1")
    while True:
        run.step += 1
        for flat in (run.optimizer.flat.data, run.ema.average, run.optimizer.m, run.optimizer.v):
            flat[...] = run.step
        run.save()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_fifty_kills_while_saving_leave_a_complete_checkpoint(tmp_path):
    path = tmp_path / "run"
    tiny_run(path)
    chance = random.Random(0)
    steps = [0]
    for _ in range(50):
        ready, resumed = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                checkpoint_forever(path, resumed)
            finally:
                os._exit(1)
        os.close(resumed)
        assert os.read(ready, 1)
        os.close(ready)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

        run = tiny_run(path)
        step = run.resume()
        if step:
            for group in run.state().values():
                assert all((array == step).all() for array in group.values())
        steps.append(step)
        assert not list(path.rglob(".*.tmp"))
    assert steps == sorted(steps)
    assert steps[-1] > 25  # so checkpoints were indeed being written


def test_a_run_killed_between_cooldown_and_first_checkpoint_starts_again(tmp_path):
    tiny_run(tmp_path / "run").save_state(BEFORE_COOLDOWN)
    run = tiny_run(tmp_path / "run")
    assert run.run.load_state(run.state()) is None
    (tmp_path / "run" / BEFORE_COOLDOWN).rename(tmp_path / "run" / "model.safetensors")
    with pytest.raises(InputError, match="would start again"):
        run.run.load_state(run.state())


# --- bad input -----------------------------------------------------------------------------------


def test_a_run_is_not_overwritten(tmp_path):
    tiny_run(tmp_path / "run")
    before = read_files(tmp_path / "run")
    with pytest.raises(InputError, match=r"--resume, or choose another --out"):
        RunDirectory(tmp_path / "run").check_new(0)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("precious")
    with pytest.raises(InputError, match="choose another --out"):
        RunDirectory(tmp_path / "other").check_new(0)
    assert read_files(tmp_path / "run") == before
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_an_output_that_cannot_be_written_is_refused_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="choose"):
        RunDirectory(tmp_path / "file" / "run").check_new(0)


def test_a_full_disk_is_refused_first(tmp_path):
    with pytest.raises(InputError, match=r"needs 1000000000 MB"):
        RunDirectory(tmp_path / "run").check_new(10**15)
    assert read_files(tmp_path) == {}


def test_nothing_to_resume(tmp_path):
    with pytest.raises(InputError, match="no run to resume"):
        RunDirectory(tmp_path).read_info()
    (tmp_path / RUN).write_text(json.dumps([1]))
    with pytest.raises(InputError, match="no JSON object"):
        RunDirectory(tmp_path).read_info()


@pytest.mark.parametrize("names", ["ab", ["a", 1], 7])
def test_damaged_names_of_classes(tmp_path, names):
    info = {"options": {}, "data": {"label_names": names}}
    (tmp_path / RUN).write_text(json.dumps(info))
    with pytest.raises(InputError, match=r"label_names=.*restore"):
        RunDirectory(tmp_path).read_info()


def test_a_checkpoint_of_another_architecture(tmp_path):
    run = tiny_run(tmp_path / "run", steps=1)
    run.train(progress=False)
    tensors = load_file(tmp_path / "run" / STATE)
    name = "raw/conv_in.weight"
    save_file({**tensors, name: tensors[name][..., :2]}, tmp_path / "run" / STATE)
    with pytest.raises(InputError, match=r"raw/conv_in\.weight.*another architecture"):
        tiny_run(tmp_path / "run").resume()


def test_a_trained_run_without_its_checkpoint_is_refused(tmp_path):
    """Starting again would overwrite the model in unet/ with an untrained one."""
    run = tiny_run(tmp_path / "run", steps=2)
    run.train(progress=False)
    (tmp_path / "run" / STATE).unlink()
    with pytest.raises(InputError, match=f"{STATE} is missing"):
        tiny_run(tmp_path / "run").resume()


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
    whole = tiny_run(tmp_path / "whole", steps=4)
    whole.train(progress=False)
    killed = tiny_run(tmp_path / "run", steps=4)
    killed.save = lambda: None  # a log, but no checkpoint
    killed.train(progress=False)
    again = tiny_run(tmp_path / "run", steps=4)
    assert again.resume() == 0
    again.train(progress=False)
    for name in (STATE, LOSS):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_run_killed_at_its_first_write_does_not_block_its_directory(tmp_path):
    (tmp_path / ".run.json.123.tmp").write_text("{")
    RunDirectory(tmp_path).check_new(0)
    (tmp_path / "notes.tmp").write_text("a file of the user")
    with pytest.raises(InputError, match="is not a run"):
        RunDirectory(tmp_path).check_new(0)


def test_a_log_that_cannot_be_written(tmp_path):
    run = tiny_run(tmp_path / "run", steps=9)
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
    run = tiny_run(tmp_path / "run", steps=1)
    run.train(progress=False)
    path = tmp_path / "run" / STATE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="truncated"):
        tiny_run(tmp_path / "run").resume()


def test_an_incomplete_last_line_of_the_log_is_ignored(tmp_path):
    run = tiny_run(tmp_path / "run", steps=4)
    run.train(progress=False)
    path = tmp_path / "run" / LOSS
    complete = read_loss(path)
    for incomplete in ("5", "5,0.12", "5,0.12,0.1,0.1,0.1,0.1,1.2,0.00"):
        path.write_text(path.read_text() + incomplete)
        assert str(read_loss(path)) == str(complete)  # as text, in which nan equals nan
        path.write_text(path.read_text()[: -len(incomplete)])
