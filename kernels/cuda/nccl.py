"""Sums over ranks of arrays on GPUs, by NCCL. MPI only tells the ranks how to find each other."""

import importlib
from collections.abc import Callable
from typing import Any

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda.launch import cupy

_connected: list[tuple[Any, Any]] = []  # at most one communicator, and the stream of its sums


def begin_all_reduce(comm: Any, x: Array) -> Callable[[], None]:
    """Begin to add up a contiguous array over all ranks, in place: every rank gets the same bits.

    comm: a communicator of mpi4py, the same in all calls. x: float32 or float64. Returns a function
    after whose call later work of the current stream finds the sums; nothing synchronises.
    """
    importlib.import_module("cupy.cuda.nccl")  # CuPy imports it only on request
    cuda = cupy().cuda
    nccl = cuda.nccl
    if not _connected:
        unique = comm.bcast(nccl.get_unique_id() if comm.rank == 0 else None)
        communicator = nccl.NcclCommunicator(comm.size, unique, comm.rank)
        _connected.append((communicator, cuda.Stream(non_blocking=True)))
    communicator, stream = _connected[0]
    kind = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}[x.dtype.name]
    stream.wait_event(cuda.get_current_stream().record())  # x is complete
    communicator.allReduce(x.data.ptr, x.data.ptr, x.size, kind, nccl.NCCL_SUM, stream.ptr)
    summed = stream.record()
    return lambda: cuda.get_current_stream().wait_event(summed)
