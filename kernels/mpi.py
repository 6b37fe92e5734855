"""Sums over the ranks of an MPI communicator, of arrays on the host."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

PAUSE = 2e-4  # seconds between two looks at a sum while kernels compute


def begin_all_reduce(comm: Any, x: np.ndarray) -> Callable[[], None]:
    """Begin to add up a contiguous array over all ranks, in place: every rank gets the same bits.

    comm: a communicator of mpi4py that is used for nothing else. Returns the function that waits
    for the sums.
    """
    from mpi4py import MPI

    request, needed = comm.Iallreduce(MPI.IN_PLACE, x, MPI.SUM), threading.Event()
    may_call = MPI.Query_thread() == MPI.THREAD_MULTIPLE

    def advance() -> None:
        # MPI makes progress only while it is called. Its own waiting would use a whole core.
        while may_call and not request.Test() and not needed.wait(PAUSE):
            pass

    thread = threading.Thread(target=advance, daemon=True)
    thread.start()

    def finish() -> None:
        needed.set()
        thread.join()
        request.Wait()

    return finish
