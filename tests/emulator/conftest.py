"""What the tests of the emulator share as fixtures."""

import sys
from pathlib import Path

import pytest

from minddpm.kernels.emulator.cupy_on_cpu.cuda import profiling
from minddpm.kernels.emulator.profile import Line

# For cuda_checks, and for test_race_free.py, which calls the tests of the CUDA kernels.
sys.path.insert(0, str(Path(__file__).parents[1] / "cuda"))


@pytest.fixture
def xp(emulated_cupy):
    """The stand-in as the active backend, its counts at zero."""
    emulated_cupy.stats.reset()
    return emulated_cupy


@pytest.fixture
def costs(stand_in):
    """Returns the lines of the kernels that a function launches."""

    def run(function, *arguments, **options) -> list[Line]:
        with profiling() as (lines, _):
            function(*arguments, **options)
        return lines

    return run
