"""Commands in ranks: only rank 0 speaks, one sentence for an error, Ctrl-C, other launchers."""

import os
import signal
import sys
import time

import numpy as np
import pytest
import ranks
from builders import random_unet
from commands import EXAMPLES, QUICK, snapshot

import minddpm
from minddpm import parallel
from minddpm.models.pretrained import WEIGHTS
from minddpm.pipeline import save_pipeline
from minddpm.training.run_directory import LOSS, STATE, read_loss
from refusals import refused

SIMPLE = """
import sys, time
from minddpm import parallel
from minddpm.commands import cli
from minddpm.errors import InputError

def main():
    rank = parallel.world().rank
    print(f"I am {rank}")
    if sys.argv[1] == "one" and rank == 1:
        raise InputError("something is wrong: change it.")
    if sys.argv[1] == "all":
        raise InputError("something is wrong: change it.")
    if sys.argv[1] == "bug" and rank == 1:
        raise RuntimeError("a bug")
    time.sleep(60)

sys.exit(cli.run(main, in_ranks=sys.argv[1] != "refused"))
"""


@pytest.fixture
def mpirun():
    ranks.needs_mpi()
    return ranks.run


# --- how ranks find each other -------------------------------------------------------------------


@pytest.mark.parametrize("variables", parallel.LAUNCHERS.values(), ids=parallel.LAUNCHERS)
def test_a_launcher_without_mpi4py(monkeypatch, variables):
    for name, value in zip(variables, ("1", "4"), strict=True):
        monkeypatch.setenv(name, value)
    assert parallel.launched() == (1, 4)
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with refused("4 processes", "pip install", "minddpm[mpi]"):
        parallel.join()
    assert parallel.world().size == 1


def test_an_ordinary_process(monkeypatch):
    for names in parallel.LAUNCHERS.values():
        for name in names:
            monkeypatch.delenv(name, raising=False)
    assert parallel.launched() == (0, 1)
    assert parallel.join() is parallel.world()
    monkeypatch.setenv("SLURM_NTASKS", "8")  # in a job, but not started by srun
    assert parallel.launched() == (0, 1)


def test_parts_of_ranks_cover_everything():
    for size in (1, 3, 4):
        world = parallel.Alone()
        world.size, numbers = size, []
        for world.rank in range(size):
            numbers += range(10)[world.part(10)]
        assert numbers == list(range(10))


def test_another_mpi_than_the_launchers(mpirun, tmp_path):
    """Each process then is the only one that MPI sees."""
    program = tmp_path / "program.py"
    program.write_text(SIMPLE)
    variables = {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "3"}
    code, _, stderr = mpirun(None, program, "all", **variables)
    assert code == 2
    assert "another MPI" in stderr
    assert stderr.count("error: ") == 1


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("all", "\nerror: something is wrong: change it."),
        ("one", "\nrank 1: error: something is wrong: change it."),
        ("bug", "\nrank 1: RuntimeError: a bug"),
        ("refused", "does not divide its work over ranks: start it without a launcher."),
    ],
)
def test_a_failure_ends_all_ranks(mpirun, tmp_path, kind, sentence):
    program = tmp_path / "program.py"
    program.write_text(SIMPLE)
    started = time.monotonic()
    code, stdout, stderr = mpirun(2, program, kind)
    assert code != 0
    assert time.monotonic() - started < 55, "a rank slept to its end"
    assert f"\n{stderr}".count(sentence) == 1, stderr
    assert stdout.count("I am") == (kind != "refused")


# --- the commands --------------------------------------------------------------------------------


def test_ctrl_c_stops_all_ranks_after_the_same_step(mpirun, digits, tmp_path):
    out, program = tmp_path / "run", EXAMPLES / "train_mnist.py"
    words = [*QUICK, "--data-dir", digits, "--model", "tiny", "--out", out, "--log-every", "1"]
    process = ranks.start(2, program, *words, "--steps", "5000")
    while not (out / LOSS).exists() or out.joinpath(LOSS).read_text().count("\n") < 3:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to mpirun and what it started
    stdout, stderr = process.communicate(timeout=120)
    if (out / STATE).exists():  # MPICH and Intel MPI pass the signal on; Open MPI ends the ranks
        assert stdout.count("saved; continue with") == 1, stderr
    assert "Traceback" not in stderr
    steps = 1 + max(int(line.split(",")[0]) for line in out.joinpath(LOSS).read_text().split()[1:])
    code, _, stderr = mpirun(None, program, *words, "--resume", "--steps", steps)
    assert code == 0, stderr
    assert out.joinpath(LOSS).read_text().count("\n") == steps + 1


@pytest.fixture
def model(tmp_path):
    """The directory of a tiny model of 40 timesteps."""
    unet = random_unet(sample_size=28, scale=0.1)
    save_pipeline(unet, minddpm.GaussianDiffusion(minddpm.schedules.linear(40)), tmp_path / "model")
    return tmp_path / "model"


def test_two_ranks_distill_what_one_does(mpirun, model, digits, tmp_path):
    words = ["--model", model, "--data-dir", digits, "--backend", "numba"]
    words += ["--method", "progressive", "--teacher-steps", 4, "--sampling-steps", 1]
    words += ["--steps-per-stage", 3, "--batch-size", 4, "--samples", 4, "--log-every", 1]
    losses, outs = [], [tmp_path / "one", tmp_path / "two"]
    for count, out in zip((None, 2), outs, strict=True):
        code, _, stderr = mpirun(count, EXAMPLES / "distill.py", *words, "--out", out)
        assert code == 0, stderr
        losses.append([row["loss"] for row in read_loss(out / LOSS)])
    np.testing.assert_allclose(*losses, rtol=1e-5)
    assert len(losses[0]) == 6
    ranks.check_weights(*(out / "unet" / WEIGHTS for out in outs))


def test_samples_and_their_metrics_are_those_of_one_rank(mpirun, model, digits, tmp_path):
    common = ["--model", model, "--backend", "numba"]
    images = []
    for count in (None, 2):
        npz = tmp_path / f"{count}.npz"
        words = [*common, "--count", 7, "--steps", 3, "--npz", npz, "--out", f"{npz}.png"]
        code, _, stderr = mpirun(count, EXAMPLES / "sample.py", *words)
        assert code == 0, stderr
        images.append(np.load(npz)["images"])
    np.testing.assert_array_equal(*images)

    tables = []
    for count in (None, 2):
        words = [*common, "--data-dir", digits, "--count", 0, "--images", 5, "--draws", 2]
        before = snapshot(tmp_path)
        code, stdout, stderr = mpirun(count, EXAMPLES / "evaluate.py", *words)
        assert code == 0, stderr
        assert snapshot(tmp_path) == before
        tables.append([line for line in stdout.splitlines() if line.startswith("| bits")])
    assert tables[0] == tables[1] != []
