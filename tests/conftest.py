"""One test body over every backend that is present; the header of the run says what is not.

Without a GPU the cupy backend is tested on the emulator's stand-in for CuPy.
"""

import os
import sys

import pytest

import minddpm
from minddpm import backend
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
