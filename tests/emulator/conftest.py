"""What the tests of the emulator share as fixtures."""

import sys
from collections import Counter
from pathlib import Path

import pytest

from minddpm.kernels.emulator.cupy_on_cpu.cuda import emulation
from minddpm.kernels.emulator.profile import Line

# For cuda_checks, and for test_race_free.py, which calls the tests of the CUDA kernels.
sys.path.insert(0, str(Path(__file__).parents[1] / "cuda"))


@pytest.fixture
def xp(emulated_cupy):
    """The stand-in as the active backend, its counts at zero."""
    emulated_cupy.stats.reset()
    return emulated_cupy


@pytest.fixture
def costs(stand_in, monkeypatch):
    """Returns the lines of the kernels that a function launches."""
    monkeypatch.setattr(emulation, "mode", "profile")

    def run(function, *arguments, **options) -> list[Line]:
        monkeypatch.setattr(emulation, "profile", [])
        monkeypatch.setattr(emulation, "operations", Counter())
        function(*arguments, **options)
        return emulation.profile

    return run
