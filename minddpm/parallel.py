"""Ranks: the processes that compute one run together, started by mpirun or srun.

    mpirun -n 4 python examples/train_mnist.py

A launcher starts the same command several times; each of these processes is a rank, with a number.
join() finds the others, and world() returns what connects them: in an ordinary process Alone, whose
functions do nothing, so that a trainer needs no second version. docs/parallel.md has the rest.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from minddpm import backend
from minddpm.backend import Array
from minddpm.errors import InputError

T = TypeVar("T")

# The variables in which launchers give a process its number, and the number of processes.
LAUNCHERS = {
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "MPICH or Intel MPI": ("PMI_RANK", "PMI_SIZE"),
    "srun": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
}
PATIENCE = 5.0  # seconds that a rank which has failed waits for the others to fail, too


class Alone:
    """The only rank: an ordinary process."""

    rank, size = 0, 1
    local_rank = 0  # among the ranks on this machine
    sharing = 1  # ranks that share the cores of this one

    def part(self, n: int) -> slice:
        """Return which of n images this rank computes: parts that differ by at most one."""
        return slice(self.rank * n // self.size, (self.rank + 1) * n // self.size)

    def begin_sum(self, x: Array) -> Callable[[], None]:
        """Begin to add up x over all ranks, in place: every rank gets the same bits.

        Returns the function to call before x is used.
        """
        return lambda: None

    def gather(self, x: np.ndarray, axis: int = 0) -> np.ndarray:
        """Return the arrays of all ranks, in order, joined along an axis."""
        return x

    def share(self, x: Array) -> None:
        """Give all ranks rank 0's values of x, in place."""

    def from_first(self, function: Callable[[], T]) -> T:
        """Call the function in rank 0 only, and return its result in all ranks.

        Its exception is raised in rank 0, and an InputError in the others.
        """
        return function()

    def first_on_machine(self, function: Callable[[], T]) -> T:
        """Call the function in all ranks, the first one of each machine before its others."""
        return function()

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any rank."""
        return flag

    def agree(self, function: Callable[[], Any]) -> bool:
        """Return whether the function returns equal values in all ranks; not called if alone."""
        return True

    def leave(self, code: int, report: Callable[[], None]) -> int:
        """Wait until all ranks end, and return the exit code of this one.

        If it has failed and the others have not, end them, after a call of report().
        """
        return code


class Ranks(Alone):
    """The ranks of an MPI communicator."""

    def __init__(self, comm: Any):
        from mpi4py import MPI

        self._comm = comm
        self._machine = comm.Split_type(MPI.COMM_TYPE_SHARED)
        self._sums = comm.Dup()  # their messages never meet those of the calls below
        self.rank, self.size, self.local_rank = comm.rank, comm.size, self._machine.rank
        affinity = getattr(os, "sched_getaffinity", lambda _: ())(0)
        self.sharing = self._machine.allgather(sorted(affinity)).count(sorted(affinity))

    def begin_sum(self, x: Array) -> Callable[[], None]:
        return backend.begin_sum(self._sums, x)

    def gather(self, x: np.ndarray, axis: int = 0) -> np.ndarray:
        return np.concatenate(self._comm.allgather(x), axis=axis)

    def share(self, x: Array) -> None:
        host = np.ascontiguousarray(backend.to_numpy(x))
        self._comm.Bcast(host)
        if self.rank > 0:
            x[...] = backend.array_module(x).asarray(host)

    def from_first(self, function: Callable[[], T]) -> T:
        result = problem = None
        if self.rank == 0:
            try:
                result = function()
            except Exception as error:
                problem = error
        result, failed = self._comm.bcast((result, problem is not None))
        if problem is not None:
            raise problem
        if failed:
            raise InputError("rank 0 has failed: see its message.")
        return result

    def first_on_machine(self, function: Callable[[], T]) -> T:
        if self.local_rank > 0:
            self._machine.barrier()
        result = function()
        if self.local_rank == 0:
            self._machine.barrier()
        return result

    def any(self, flag: bool) -> bool:
        from mpi4py import MPI

        return self._comm.allreduce(flag, MPI.LOR)

    def agree(self, function: Callable[[], Any]) -> bool:
        first, *others = self._comm.allgather(function())
        return all(value == first for value in others)

    def leave(self, code: int, report: Callable[[], None]) -> int:
        # Not MPI's own waiting, which uses a core: rank 0 may still be drawing its figures.
        others, end = self._comm.Ibarrier(), time.monotonic() + PATIENCE
        while not others.Test():
            if code and time.monotonic() > end:
                report()
                time.sleep(0.5)  # until the launcher has read it, which Abort ends
                self._comm.Abort(code)
                os._exit(code)  # with MPICH, Abort may return
            with contextlib.suppress(KeyboardInterrupt):  # the ranks at work answer it
                time.sleep(0.01)
        return code


_world = Alone()


def world() -> Alone:
    """Return the ranks of this run: Alone, unless join() has found others."""
    return _world


def launched() -> tuple[int, int]:
    """Return this process's number and the number of processes that a launcher has started."""
    for rank, size in LAUNCHERS.values():
        if os.environ.get(size, "").isdecimal() and os.environ.get(rank, "").isdecimal():
            return int(os.environ[rank]), int(os.environ[size])
    return 0, 1


def join() -> Alone:
    """Connect with the other ranks if a launcher started this process; return world().

    Raises InputError if mpi4py is missing, or belongs to another MPI than the launcher.
    """
    global _world
    _, size = launched()
    if size == 1 or _world.size > 1:
        return _world
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: no MPI library
        raise InputError(
            f"a launcher started {size} processes, but mpi4py cannot connect them ({error}): "
            'pip install "minddpm[mpi]", or start one process.'
        ) from error
    if size != MPI.COMM_WORLD.size:
        library = MPI.Get_library_version().strip("\0").split("\n")[0].split(",")[0]
        raise InputError(
            f"a launcher started {size} processes, but mpi4py sees {MPI.COMM_WORLD.size}, because "
            f"it uses another MPI ({library}): start them with the mpirun of that one, or install "
            "mpi4py for the launcher's."
        )
    _world = Ranks(MPI.COMM_WORLD)
    return _world
