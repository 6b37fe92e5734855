"""What the tests of the emulator share as fixtures."""

import sys
from pathlib import Path

import pytest

# For cuda_checks, and for test_race_free.py, which calls the tests of the CUDA kernels.
sys.path.insert(0, str(Path(__file__).parents[1] / "cuda"))


@pytest.fixture
def xp(emulated_cupy):
    """The stand-in as the active backend, its counts at zero."""
    emulated_cupy.stats.reset()
    return emulated_cupy
