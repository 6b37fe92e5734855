"""What the tests of the CUDA kernels share as fixtures."""

import sys

import pytest

from minddpm.kernels.emulator import cupy_on_cpu


@pytest.fixture(scope="module")
def emulated_kernels():
    """The stand-in as cupy, for the tests of one file; the active backend stays."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cupy", "cupy.cuda", "cupy.cuda.nccl"):
            patch.setitem(sys.modules, name, None)  # so that they are restored afterwards
        cupy_on_cpu.install()
        yield
