"""Sums over the ranks of an MPI communicator, of arrays on the host."""

from typing import Any

import numpy as np


def all_reduce(comm: Any, x: np.ndarray) -> None:
    """Add up a contiguous array over all ranks, in place: every rank gets the same bits.

    comm: a communicator of mpi4py.
    """
    from mpi4py import MPI

    comm.Allreduce(MPI.IN_PLACE, x, MPI.SUM)
