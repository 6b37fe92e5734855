"""A few faults of each kind: nothing is damaged, and the training goes on to the same end."""

import os
import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

if os.name != "posix" or not Path("/proc/self").exists():
    pytest.skip("needs Linux", allow_module_level=True)

import faults
from tiny_training import Training, damaged

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
SCALE = 0.02
CAMPAIGN = Path(__file__).parents[1] / "campaign.py"


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A tiny training, in the directory of its runs."""
    return Training(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
    ("part", "outcomes"),
    [
        (faults.kills, {faults.DIED, faults.FINISHED}),
        (faults.killed_ranks, {faults.DIED, faults.FINISHED}),
        (faults.failing_disks, {faults.SENTENCE}),
        (faults.full_disks, {faults.SENTENCE, faults.FINISHED}),
        (faults.clocks, {faults.FINISHED}),
        (faults.two_processes, {faults.SENTENCE, faults.FINISHED}),
    ],
)
def test_a_run_survives(training, part, outcomes):
    trials = list(part(training, Random(0), SCALE))
    if not trials and part is faults.full_disks:
        pytest.skip("only root may mount a tmpfs")
    if not trials and part is faults.killed_ranks:
        pytest.skip("no mpirun")
    assert [line for trial in trials for line in trial.findings] == []
    assert {trial.outcome for trial in trials} <= outcomes
    assert trials


def test_a_run_survives_too_little_memory():
    """In a process of its own: one that has used the kernels cannot fork."""
    words = [sys.executable, CAMPAIGN, "faults", "--count", "4", "--only", "memory"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| too little memory, numba | 1 |" in done.stdout


def test_a_fault_would_be_found(training):
    """A run that skips a step, and a truncated file."""
    out = training.new()
    assert training.end(out, training.start(out)).code == 0
    log = out / "loss.csv"
    log.write_text(re.sub(r"\n3,.*", "", log.read_text()))
    for name in ("samples.png", "unet/config.json", "training_state.safetensors"):
        path = out / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert len(damaged(out)) == 3
    assert len(training.after(out)) > 3
