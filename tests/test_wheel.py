"""The wheel: it holds every file of the package, and works where nothing else is installed.

Needs `pip install -e ".[release]"`, a package index, and about a minute.
"""

import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from commands import NUMPY, QUICK

import minddpm
from minddpm.__main__ import COMMANDS

pytest.importorskip("build")
pytest.importorskip("twine")

ROOT = Path(__file__).parents[1]
FOLDERS, FILES = ("minddpm", "kernels"), ("setup.cfg", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """Build the source distribution, and the wheel from it; return both files.

    From a copy, as a build writes into the folder of its sources.
    """
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", "build", "--outdir", out, source], check=True)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def run(distributions, tmp_path_factory):
    """Return run("minddpm", "train", ...) -> stdout, in an environment with only the wheel.

    It runs in a folder of its own, which has nothing to do with the checkout.
    """
    environment, place = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("place")
    venv.create(environment, with_pip=True)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    variables = {n: v for n, v in os.environ.items() if n not in ("PYTHONPATH", "PYTHONHOME")}
    variables["OPENBLAS_NUM_THREADS"] = "1"

    def call(program, *words, **more):
        done = subprocess.run(
            [programs / program, *map(str, words)], cwd=place, env={**variables, **more},
            capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    call("python", "-m", "pip", "install", "--quiet", distributions[1])
    return call


@pytest.fixture(scope="module")
def model(run, digits):
    """A model that `minddpm train` wrote; the name of its directory in the place of `run`."""
    train = ["--data-dir", digits, "--out", "run", "--model", "tiny"]
    stdout = run("minddpm", "train", *train, *QUICK)
    assert "minddpm sample --model run" in stdout
    return "run"


def test_the_wheel_holds_every_file_of_the_package(distributions):
    with zipfile.ZipFile(distributions[1]) as wheel:
        held = set(wheel.namelist())
    expected = set()
    for folder, prefix in (("minddpm", ""), ("kernels", "minddpm/")):
        for path in (ROOT / folder).rglob("*"):
            cached = "__pycache__" in path.parts
            if path.is_file() and path.suffix != ".md" and not cached:
                expected.add(f"{prefix}{path.relative_to(ROOT).as_posix()}")
    assert len(expected) > 300
    assert expected - held == set()
    assert {name for name in held if name.startswith("minddpm/")} == expected


def test_a_package_index_accepts_the_distributions(distributions):
    check = [sys.executable, "-m", "twine", "check", "--strict", *distributions]
    subprocess.run(check, check=True)
    for file in distributions:
        assert file.name.startswith(f"minddpm-{minddpm.__version__}")


def test_every_command_starts(run):
    assert run("minddpm", "--version") == f"minddpm {minddpm.__version__}\n"
    for name in COMMANDS:
        assert run("minddpm", name, "--help").startswith(f"usage: minddpm {name} [")
    where = run("python", "-c", "import minddpm.kernels; print(minddpm.kernels.__file__)")
    assert not Path(where).is_relative_to(ROOT)
    assert "site-packages" in where


def test_the_shipped_judge_evaluates_a_model(run, model, digits):
    how = ["--count", 70, "--steps", 2, "--images", 2, "--draws", 2, "--classification-steps", 0]
    stdout = run("minddpm", "evaluate", "--model", model, "--data-dir", digits, *how, *NUMPY)
    assert "99.31%" in stdout  # the judge's accuracy
    assert "| FID |" in stdout


def test_the_compiled_kernels_sample(run, model):
    sample = ["--model", model, "--count", 1, "--sampler", "ddim", "--steps", 2]
    assert run("minddpm", "sample", *sample, "--backend", "numba", "--threads", 1)


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_cuda_kernels_sample_on_the_emulator(run, model):
    sample = ["--model", model, "--count", 1, "--sampler", "ddim", "--steps", 2]
    stdout = run("minddpm", "sample", *sample, "--backend", "cupy", MINDDPM_CUDA="emulate")
    assert "1 samples in 2 ddim steps" in stdout
