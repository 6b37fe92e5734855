"""Fixtures: every backend that is present, the stand-in for CuPy, and the commands of examples/.

The report header names the backends that are missing. Without a GPU the cupy backend is tested on
the emulator's stand-in for CuPy.
"""

import os
import subprocess
import sys

import pytest
from builders import write_digits
from commands import EXAMPLES, QUICK, load

import minddpm
from minddpm import backend
from minddpm.commands import cli
from minddpm.commands.watching import Sampler
from minddpm.errors import InputError

MISSING = {}
for _name in backend.NAMES:
    try:
        minddpm.set_backend(_name)
    except InputError as problem:
        MISSING[_name] = str(problem)
PRESENT = [name for name in backend.NAMES if name not in MISSING]
EMULATED = ["cupy emulated"] if "cupy" in MISSING and os.name == "posix" else []


def pytest_report_header():
    return [f"backends tested: {', '.join(PRESENT + EMULATED)}"] + [
        f"backend not tested: {name}: {problem}" for name, problem in MISSING.items()
    ]


@pytest.fixture(params=PRESENT + EMULATED)
def any_backend(request):
    """Activate each backend in turn; the test runs once per backend."""
    if request.param in EMULATED:
        request.getfixturevalue("emulated_cupy")
        return "cupy"
    minddpm.set_backend(request.param)
    return request.param


@pytest.fixture
def numba_with_its_threads():
    """Activate Numba, and give it the number of threads of before when the test is done."""
    minddpm.set_backend("numba")
    from minddpm.kernels.cpu import threads

    before = threads.count()
    yield
    threads.set_threads(before)


@pytest.fixture
def stand_in(monkeypatch):
    """Replace CuPy by the stand-in during this test; the active backend does not change."""
    from minddpm.kernels.emulator import cupy_on_cpu

    for name in ("cupy", "cupy.cuda", "cupy.cuda.nccl"):
        monkeypatch.setitem(sys.modules, name, None)  # monkeypatch restores them
    return cupy_on_cpu.install()


@pytest.fixture
def emulated_cupy(monkeypatch):
    """Make the stand-in the active backend during this test."""
    for name in ("cupy", "cupy.cuda", "cupy.cuda.nccl"):
        monkeypatch.setitem(sys.modules, name, None)  # monkeypatch restores them
    monkeypatch.setenv("MINDDPM_CUDA", "emulate")
    yield minddpm.set_backend("cupy").xp
    minddpm.set_backend("numpy")


@pytest.fixture(autouse=True)
def _start_from_numpy():
    """Start every test on NumPy with the same seed, so that the order does not matter."""
    minddpm.set_backend("numpy")
    minddpm.manual_seed(0)


# --- the commands of examples/ --------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Return command("sample", "--model", ...) -> (exit code, stdout, stderr), run in tmp_path."""
    monkeypatch.chdir(tmp_path)
    # The process that draws samples takes longer than these trainings: tests/commands/test_watching
    monkeypatch.setattr(Sampler, "start", lambda _: None)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"examples/{name}.py", *map(str, arguments)])
        try:
            code = cli.run(load(name).main)
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder with 30 images of noise in MNIST's file format."""
    return write_digits(tmp_path_factory.mktemp("digits"))


def train_in_a_process(digits, out, *options):
    """Train a tiny model by the command in a process of its own, on one thread."""
    subprocess.run(
        [
            sys.executable, EXAMPLES / "train_mnist.py", "--data-dir", digits, "--out", out,
            *QUICK, *options,
        ],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    return out


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    """A finished run of two training steps."""
    return train_in_a_process(digits, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="session")
def conditional(digits, tmp_path_factory):
    """A finished class-conditional run with a learned variance."""
    out = tmp_path_factory.mktemp("runs") / "conditional"
    options = ["--class-conditional", "--variance", "learned_range", "--loss", "hybrid"]
    return train_in_a_process(digits, out, *options, "--importance-sampling")
