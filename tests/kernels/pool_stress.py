"""Tasks for the thread pool that count what must never happen.

python tests/kernels/pool_stress.py THREADS TASKS        prints the number of errors
"""

import sys

import numpy as np
from numba import cfunc, njit, types

from minddpm.kernels.cpu import atomic, pool

WORDS = 8  # a cache line
NUMBER, ERRORS, BUSY = 0, 1, WORDS  # BUSY: a flag of each worker, then the counts of each piece
COUNTS = BUSY + pool.MOST * WORDS


@cfunc(types.void(*[types.int64] * 4))
def count_up(piece, pieces, worker, at):
    """Add 1 to the piece's count, and to the errors if another piece has this worker's number."""
    busy = at + 8 * (BUSY + worker * WORDS)
    if not atomic.exchange(busy, 0, 1):
        atomic.add(at + 8 * ERRORS, 1)
    atomic.add(at + 8 * (COUNTS + piece), 1)
    for _ in range(atomic.load(at + 8 * NUMBER) * 7919 * (piece + 1) % 200):
        atomic.pause()
    atomic.store(busy, 0)


@njit(nogil=True)
def stress(at, function, arguments, tasks, threads):
    """Run tasks of 1 to 32 pieces; return the errors: pieces not run once, workers not alone."""
    errors = 0
    for number in range(tasks):
        pieces = number % pool.MOST + 1
        atomic.store(arguments + 8 * NUMBER, number % 3)
        for piece in range(pool.MOST):
            atomic.store(arguments + 8 * (COUNTS + piece), 0)
        pool.run(at, function, pieces, arguments, threads)
        for piece in range(pool.MOST):
            errors += atomic.load(arguments + 8 * (COUNTS + piece)) != (piece < pieces)
    return errors + atomic.load(arguments + 8 * ERRORS)


def errors(threads: int, tasks: int) -> int:
    """Run `tasks` tasks on a pool of its own, and return the number of errors."""
    workers = pool.Pool(threads)
    arguments = np.zeros(COUNTS + pool.MOST, np.int64)
    found = stress(workers.at, count_up.address, arguments.ctypes.data, tasks, threads)
    workers.stop()
    return found


if __name__ == "__main__":
    errors(1, 1)  # compile
    print("ready", flush=True)
    print(errors(int(sys.argv[1]), int(sys.argv[2])))
