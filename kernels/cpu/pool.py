"""The thread pool: its threads share out the pieces of a task, and never wait for one another.

A task (task.py) is a function of a piece's number; it is done when all its pieces are done. Whoever
is free takes the next piece: a thread that the system has put aside for another program holds up at
most the piece that it is running. OpenMP gives each thread a fixed share instead, and waits until
every thread has come and finished it.

    run(task):    publish it, take pieces until none is left, wait until all are done
    a worker:     wait for a task, take pieces until none is left, again

Who waits looks again and again for SPIN nanoseconds, because the next task mostly comes within
microseconds; then it sleeps, because a spinning thread takes a core from other programs.

Which pieces are left is one integer, the ticket: the number of the task in its upper 32 bits, one
bit for each piece not yet taken in its lower 32. A piece is taken by clearing its bit with
a compare-and-exchange: it fails if another thread has changed the ticket meanwhile, so that no
piece is taken twice, and none of a task that is done. A thread takes the pieces of its own share
first: their data may still be in its cache from the task before.
"""

import threading

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from minddpm.kernels.cpu.atomic import (
    add,
    exchange,
    load,
    lowest_bit,
    nanoseconds,
    pause,
    store,
    wait,
    wake,
)
from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.vector.instructions import I64

MOST = 32  # pieces of a task, and threads: the bits of a ticket
LEFT = (1 << MOST) - 1
SPIN = 100_000  # nanoseconds: longer than Python takes from one task to the next

# The pool's memory, as offsets in bytes. What several threads write has a cache line of its own.
LINE = 64
TICKET, DONE, SLEEPING, WAITING, TASK = (LINE * i for i in range(5))
FUNCTION, PIECES, ARGUMENTS = TASK, TASK + 8, TASK + 16
HALF = 4  # to the upper half of the ticket: the number of the task (little-endian)


@intrinsic
def call(typing_context, function, piece, pieces, worker, at):
    """Call the compiled task at address `function`."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [I64] * 4)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 5), codegen


@serial
def _take(pool, worker, threads):
    """Return a piece of the task, if possible of the worker's share; -1 if none is left."""
    pieces = load(pool + PIECES)  # if another task begins now, only the preference is wrong
    mine = (1 << pieces * (worker + 1) // threads) - (1 << pieces * worker // threads)
    while True:
        ticket = load(pool + TICKET)
        left = ticket & LEFT
        if not left:
            return -1
        piece = lowest_bit(left & mine if left & mine else left)
        if exchange(pool + TICKET, ticket, ticket ^ (1 << piece)):
            return piece


@serial
def _work(pool, worker, threads):
    """Run pieces until none is left."""
    piece = _take(pool, worker, threads)
    while piece >= 0:
        # The task cannot end before this piece, so its fields stay as they are.
        pieces = load(pool + PIECES)
        call(load(pool + FUNCTION), piece, pieces, worker, load(pool + ARGUMENTS))
        if add(pool + DONE, 1) + 1 == pieces and load(pool + WAITING):
            wake(pool + DONE, 1)
        piece = _take(pool, worker, threads)


@serial
def run(pool, function, pieces, at, threads):
    """Run a task of 1 .. MOST pieces with the arguments at address `at`; only one at a time."""
    if pieces == 1:
        call(function, 0, 1, 0, at)
        return
    store(pool + FUNCTION, function)
    store(pool + PIECES, pieces)
    store(pool + ARGUMENTS, at)
    store(pool + DONE, 0)
    _publish(pool, (1 << pieces) - 1)
    _work(pool, 0, threads)
    start = nanoseconds()
    while load(pool + DONE) < pieces:
        if nanoseconds() - start > SPIN:
            store(pool + WAITING, 1)
            done = load(pool + DONE)
            if done < pieces:  # read after WAITING: whoever ends the last piece now sees it
                wait(pool + DONE, done)
            store(pool + WAITING, 0)
        pause()


@serial
def run_list(pool, tasks, threads):
    """Run tasks one after the other; tasks [:, 3]: address, pieces, address of the arguments."""
    for i in range(len(tasks)):
        run(pool, tasks[i, 0], tasks[i, 1], tasks[i, 2], threads)


@serial
def _publish(pool, left):
    """Offer the pieces `left` of the next task."""
    ticket = (((load(pool + TICKET) >> 32) + 1) << 32) | left
    store(pool + TICKET, ticket)
    if load(pool + SLEEPING):
        wake(pool + TICKET + HALF, MOST)


@serial
def _next(pool, number):
    """Wait until the task is another one than `number`, and return its number."""
    start = nanoseconds()
    while load(pool + TICKET) >> 32 == number:
        if nanoseconds() - start > SPIN:
            add(pool + SLEEPING, 1)
            wait(pool + TICKET + HALF, number)  # returns at once if there is a new task
            add(pool + SLEEPING, -1)
        pause()
    return load(pool + TICKET) >> 32


@serial
def _worker(pool, worker, threads):
    """Run pieces of all tasks until the pool is stopped."""
    number = 0
    while True:
        number = _next(pool, number)
        if not load(pool + FUNCTION):
            return
        _work(pool, worker, threads)


@serial
def _stop(pool):
    """Let the workers return: task 0 is the last one."""
    store(pool + FUNCTION, 0)
    _publish(pool, 0)


class Pool:
    """`threads` threads: the one that calls run, and threads - 1 workers.

    The workers are Python threads that never return to Python, and so need no lock of it.
    """

    def __init__(self, threads: int):
        self.threads = threads
        self._memory = np.zeros((TASK + 2 * LINE) // 8, np.int64)
        at = self._memory.ctypes.data
        self.at = at + -at % LINE
        _worker.compile(types.void(*[types.int64] * 3))  # before they all do
        self._workers = [
            threading.Thread(target=self._serve, args=(worker,), daemon=True)
            for worker in range(1, threads)
        ]
        for worker in self._workers:
            worker.start()

    def _serve(self, worker: int) -> None:
        _worker(self.at, worker, self.threads)

    def run(self, function: int, pieces: int, at: int) -> None:
        """Run a compiled task by its address; at: the address of its arguments."""
        run(self.at, function, pieces, at, self.threads)

    def run_list(self, tasks: np.ndarray) -> None:
        """Run tasks one after the other; int64 [tasks, 3]: the three arguments of `run`."""
        run_list(self.at, tasks, self.threads)

    def stop(self) -> None:
        """Let the workers end, and wait for it."""
        _stop(self.at)
        for worker in self._workers:
            worker.join()
