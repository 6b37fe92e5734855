"""The stand-in for cupy.cuda.nccl: its communicator adds up by MPI, in the processes of mpirun."""

from __future__ import annotations

import ctypes

import numpy as np

from minddpm.kernels.emulator.cupy_on_cpu.state import capture, stats

__all__ = ["NCCL_FLOAT32", "NCCL_FLOAT64", "NCCL_SUM", "NcclCommunicator", "get_unique_id"]
NCCL_FLOAT32, NCCL_FLOAT64, NCCL_SUM = 7, 8, 0  # as in NCCL
_TYPES = {NCCL_FLOAT32: np.float32, NCCL_FLOAT64: np.float64}
_ID = b"the stand-in".ljust(128, b"\0")


def get_unique_id() -> bytes:
    """Return what rank 0 gives to all ranks, so that they make one communicator."""
    return _ID


class NcclCommunicator:
    """All ranks of MPI.COMM_WORLD."""

    def __init__(self, ndev: int, commId: bytes, rank: int):
        from mpi4py import MPI

        self._comm = MPI.COMM_WORLD
        if (ndev, rank, commId) != (self._comm.size, self._comm.rank, _ID):
            raise ValueError(f"ndev {ndev}, rank {rank} or commId {commId!r} is not MPI's")

    def allReduce(  # noqa: N802
        self, sendbuf: int, recvbuf: int, count: int, datatype: int, op: int, stream: int
    ) -> None:
        """Add up `count` numbers at the address sendbuf over all ranks; write them to recvbuf."""
        from mpi4py import MPI

        capture.forbids("allReduce")
        if op != NCCL_SUM:
            raise ValueError(f"operation {op} is not emulated: use NCCL_SUM")
        stats.launches += 1
        kind = np.dtype(_TYPES[datatype])

        def array_at(address: int) -> np.ndarray:
            memory = (ctypes.c_char * (count * kind.itemsize)).from_address(address)
            return np.frombuffer(memory, kind)

        self._comm.Allreduce(array_at(sendbuf).copy(), array_at(recvbuf), MPI.SUM)
