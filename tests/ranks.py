"""Run a program in several ranks, as users do: with the mpirun of the installed MPI."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from minddpm.storage.tensors import read_tensors

ROOT = Path(__file__).parents[1]
# Open MPI refuses root, and more ranks than cores, unless it is told otherwise.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
}
MPIRUN = shutil.which("mpirun", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def needs_mpi():
    """Skip the module's tests without mpi4py and the mpirun of its MPI."""
    pytest.importorskip("mpi4py", reason='pip install -e ".[mpi]"')
    if MPIRUN is None:
        pytest.skip("no mpirun", allow_module_level=True)


def command(count, *words):
    """Return the command that runs a Python program in `count` ranks; None: without a launcher."""
    launcher = [] if count is None else [MPIRUN, "-n", str(count)]
    return [*map(str, [*launcher, sys.executable, *words])]


def start(count, *words, **variables):
    """Start the program in ranks; return its process, in a process group of its own."""
    return subprocess.Popen(
        command(count, *words), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, **ENVIRONMENT, **variables}, start_new_session=True,
    )  # fmt: skip


def run(count, *words, **variables):
    """Run the program in ranks to its end; return (exit code, stdout, stderr)."""
    process = start(count, *words, **variables)
    stdout, stderr = process.communicate(timeout=300)
    return process.returncode, stdout, stderr


def check_weights(one, other):
    """Check that two files of tensors hold almost the same."""
    (first, _), (second, _) = map(read_tensors, (one, other))
    for name, array in first.items():
        np.testing.assert_allclose(second[name], array, rtol=1e-3, atol=2e-5, err_msg=name)
