"""Numba's threading layers, for machines without a pool of ours (pool.py), and to compare with.

    NUMBA_THREADING_LAYER=omp python examples/train_mnist.py ...

Their threads share a task's pieces in a parallel loop.
"""

import sys
from collections.abc import Callable

import numba
import numpy as np
from numba import njit, prange

from minddpm.errors import InputError
from minddpm.kernels.cpu.pool import call

# Numba's own order begins with TBB, whose threads steal work. OpenMP gives a thread the same share
# of a loop each time, so the data that the thread wrote before is still in its cache.
NUMBAS_ORDER, ORDER = ["tbb", "omp", "workqueue"], ["omp", "tbb", "workqueue"]


def asked_for() -> bool:
    """Return whether NUMBA_THREADING_LAYER or NUMBA_THREADING_LAYER_PRIORITY chooses a layer."""
    config = numba.config
    return config.THREADING_LAYER != "default" or config.THREADING_LAYER_PRIORITY != NUMBAS_ORDER


@njit(parallel=True, nogil=True, cache=True)
def _launch(function, pieces, threads, at):
    for worker in prange(threads):
        first, end = pieces * worker // threads, pieces * (worker + 1) // threads
        for piece in range(first, end):
            call(function, piece, pieces, np.int64(worker), at)


class NumbasThreads:
    """`threads` threads of Numba's layer, under the interface of pool.Pool."""

    def __init__(self, threads: int):
        self.threads = threads

    def run(self, function: int, pieces: int, at: int) -> None:
        # Numba has a number of threads for each Python thread; new ones begin with all cores.
        if numba.get_num_threads() != self.threads:
            numba.set_num_threads(self.threads)
        _launch(function, pieces, self.threads, at)

    def run_list(self, tasks: np.ndarray) -> None:
        for function, pieces, at in tasks.tolist():
            self.run(function, pieces, at)

    def stop(self) -> None:
        """Do nothing: Numba keeps its threads."""


def load_layer() -> Callable[[int], NumbasThreads]:
    """Load the layer that the variables choose, and return NumbasThreads.

    Without OpenMP, and if no layer was asked for, prints on stderr what to install. Raises
    InputError if the layer NUMBA_THREADING_LAYER cannot be loaded.
    """
    if numba.config.THREADING_LAYER_PRIORITY == NUMBAS_ORDER:
        numba.config.THREADING_LAYER_PRIORITY = ORDER
    asked = numba.config.THREADING_LAYER
    try:
        numba.set_num_threads(1)  # loads the layer
    except ValueError as error:
        raise InputError(
            f"Numba has no threading layer {asked!r} here: {_remedy(asked)}, or unset "
            "NUMBA_THREADING_LAYER."
        ) from error
    if numba.threading_layer() == "workqueue" and asked == "default":
        print(f"no OpenMP, the kernels will be slower: {_install_openmp()}", file=sys.stderr)
    return NumbasThreads


def _remedy(layer: str) -> str:
    if layer == "tbb":
        return "pip install tbb"
    return _install_openmp() if layer == "omp" else f"choose {' or '.join(ORDER)}"


def _install_openmp() -> str:
    if sys.platform == "darwin":
        return "install it (brew install libomp, or conda install llvm-openmp)"
    return "install it (the package libgomp1 of Debian and Ubuntu, libgomp of others)"
