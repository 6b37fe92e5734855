"""Sums over ranks of arrays on GPUs, by NCCL. MPI only tells the ranks how to find each other."""

import importlib
from typing import Any

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda.launch import cupy

_communicators: list[Any] = []  # at most one


def all_reduce(comm: Any, x: Array) -> None:
    """Add up a contiguous array over all ranks, in place: every rank gets the same bits.

    comm: a communicator of mpi4py, the same in all calls. x: float32 or float64. Does not
    synchronise: later work of the current stream finds the sums.
    """
    importlib.import_module("cupy.cuda.nccl")  # CuPy imports it only on request
    cuda = cupy().cuda
    nccl = cuda.nccl
    if not _communicators:
        unique = comm.bcast(nccl.get_unique_id() if comm.rank == 0 else None)
        _communicators.append(nccl.NcclCommunicator(comm.size, unique, comm.rank))
    kind = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}[x.dtype.name]
    at, stream = x.data.ptr, cuda.get_current_stream()
    _communicators[0].allReduce(at, at, x.size, kind, nccl.NCCL_SUM, stream.ptr)
