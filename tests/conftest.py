"""One test body over every backend that is present; the header of the run says what is not.

Without a GPU the cupy backend is tested on the emulator's stand-in for CuPy.
"""

import gzip
import os
import struct
import subprocess
import sys

import numpy as np
import pytest
from commands import EXAMPLES, QUICK, load

import minddpm
from minddpm import backend
from minddpm.commands import cli
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
    """The test runs once for each backend."""
    if request.param in EMULATED:
        request.getfixturevalue("emulated_cupy")
        return "cupy"
    minddpm.set_backend(request.param)
    return request.param


@pytest.fixture
def stand_in(monkeypatch):
    """The stand-in in CuPy's place, for this test alone; the active backend stays."""
    from minddpm.kernels.emulator import cupy_on_cpu

    for name in ("cupy", "cupy.cuda"):
        monkeypatch.setitem(sys.modules, name, None)  # so that they are put back afterwards
    return cupy_on_cpu.install()


@pytest.fixture
def emulated_cupy(monkeypatch):
    """The stand-in as the active backend, for this test alone."""
    for name in ("cupy", "cupy.cuda"):
        monkeypatch.setitem(sys.modules, name, None)  # so that they are put back afterwards
    monkeypatch.setenv("MINDDPM_CUDA", "emulate")
    yield minddpm.set_backend("cupy").xp
    minddpm.set_backend("numpy")


@pytest.fixture(autouse=True)
def _start_from_numpy():
    """Every test starts on NumPy from the same seed, whatever the one before it did."""
    minddpm.set_backend("numpy")
    minddpm.manual_seed(0)


# --- the commands of examples/ --------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """command("sample", "--model", ...) -> (exit code, stdout, stderr), from within tmp_path."""
    monkeypatch.chdir(tmp_path)

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
    """A folder with 30 tiny "digits" in MNIST's files."""
    folder = tmp_path_factory.mktemp("digits")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        header = struct.pack(">IIII", 0x803, *pixels.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = gzip.compress(struct.pack(">II", 0x801, 30) + bytes(i % 10 for i in range(30)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(labels)
    return folder


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    """A finished run of two steps, made by the real command in a process of its own."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--data-dir", digits, "--out", out, *QUICK]
    subprocess.run(
        [sys.executable, EXAMPLES / "train_mnist.py", *arguments],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    return out


@pytest.fixture(scope="session")
def conditional(digits, tmp_path_factory):
    """A class-conditional run with a learned variance."""
    out = tmp_path_factory.mktemp("runs") / "conditional"
    arguments = ["--data-dir", digits, "--out", out, *QUICK, "--class-conditional"]
    arguments += ["--variance", "learned_range", "--loss", "hybrid", "--importance-sampling"]
    subprocess.run(
        [sys.executable, EXAMPLES / "train_mnist.py", *arguments],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    return out
