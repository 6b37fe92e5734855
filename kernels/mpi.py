"""Sums over the ranks of an MPI communicator, of arrays on the host."""

from collections.abc import Callable
from typing import Any

import numpy as np


def begin_all_reduce(comm: Any, x: np.ndarray) -> Callable[[], None]:
    """Begin to add up a contiguous array over all ranks, in place: every rank gets the same bits.

    comm: a communicator of mpi4py that is used for nothing else. Returns the function that waits
    for the sums. MPI makes progress while it is called: then, and whenever another sum begins.
    """
    from mpi4py import MPI

    return comm.Iallreduce(MPI.IN_PLACE, x, MPI.SUM).Wait
