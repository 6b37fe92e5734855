"""The lock of a run directory: one process trains there, and a kill leaves no lock behind."""

import errno
import subprocess
import sys
from contextlib import contextmanager

import pytest
from builders import make_vae_loop, noise_images, tiny_run

from minddpm.evaluation.comparison import runs
from minddpm.evaluation.comparison.runs import Plan
from minddpm.evaluation.comparison.systems import SYSTEMS
from minddpm.storage import lock
from minddpm.training.run_directory import RUN, RunDirectory
from refusals import refused

pytestmark = pytest.mark.skipif(lock.fcntl is None, reason="needs fcntl")
# A process that locks a directory, says so, and keeps the lock until it is killed.
HOLD = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX | fcntl.LOCK_NB)
print(flush=True)
input()
"""


@contextmanager
def another_process(directory):
    """Let another process hold the lock during the block; it is then killed."""
    command = [sys.executable, "-c", HOLD, directory]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"\n"
        try:
            yield
        finally:
            process.kill()


def is_free(directory):
    """Return whether another process could lock the directory."""
    command = [sys.executable, "-c", HOLD, directory]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return b"BlockingIOError" not in done.stderr


def test_a_new_run_is_refused_where_another_begins_until_that_is_killed(tmp_path):
    with another_process(tmp_path), refused(tmp_path, "another process", "--out"):
        RunDirectory(tmp_path).check_new(0)
    run = RunDirectory(tmp_path)  # the empty directory of a killed run is as good as new
    run.check_new(0)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_ended_just_before_the_lock_is_not_overwritten(tmp_path, monkeypatch):
    def another_trains_first(self, bytes_needed):
        (tmp_path / RUN).write_text("{}")
        self.lock()

    monkeypatch.setattr(RunDirectory, "check_writable", another_trains_first)
    with refused(tmp_path, "already holds a run", "--resume"):
        RunDirectory(tmp_path).check_new(0)


def test_a_run_is_not_resumed_while_it_is_trained(tmp_path):
    tiny_run(tmp_path, steps=3).train(progress=False)
    written_now = tmp_path / ".loss.csv.1.tmp"
    written_now.write_text("")
    with another_process(tmp_path), refused(tmp_path, "another process", "--out"):
        tiny_run(tmp_path).resume()
    assert written_now.exists()
    assert tiny_run(tmp_path).resume() == 3


def test_the_lock_lasts_as_long_as_the_run(tmp_path):
    run = tiny_run(tmp_path)
    second = tiny_run(tmp_path)  # in the same process: allowed
    second.resume()
    assert not is_free(tmp_path)
    del run
    assert not is_free(tmp_path)
    del second
    assert is_free(tmp_path)


def test_a_run_of_a_comparison_is_locked(tmp_path, monkeypatch):
    vae, plan = SYSTEMS[2], Plan(tmp_path, (0,), None)
    monkeypatch.setattr(type(vae), "options", lambda self, steps, seed: None)
    monkeypatch.setattr(type(vae), "loop", lambda self, data, run, options: make_vae_loop(run.path))
    path = runs.directory(plan, vae, 0)
    path.mkdir()
    with another_process(path), refused(path, "another process"):
        runs.train(plan, vae, 0, noise_images(12))


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks_is_good_enough(tmp_path, monkeypatch, error):
    def unsupported(*_):
        raise OSError(error, "")

    monkeypatch.setattr(lock.fcntl, "flock", unsupported)
    RunDirectory(tmp_path).check_new(0)


def test_a_system_without_locks_is_good_enough(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)
    RunDirectory(tmp_path).check_new(0)
