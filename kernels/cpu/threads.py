"""The threads of the kernels: their number, what they share out, and who may use them.

Any number of Python threads may call kernels: each has its own working memory (memory.py). One
kernel at a time uses the kernels' threads (run); others run meanwhile in their Python thread alone.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from minddpm.errors import InputError
from minddpm.kernels.cpu.atomic import HAS_WAITING
from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.cores import usable_cores
from minddpm.kernels.cpu.numba_layers import NumbasThreads, asked_for, load_layer
from minddpm.kernels.cpu.pool import MOST, Pool, call

PARTS, MOST_PARTS = 4, 16  # fewest and most partial sums, if there are enough items
SUMMED = 16  # items of a partial sum, at least, if there are more than PARTS of them
ITEMS = 8  # of a piece, at least: with fewer images it would compute tiles that are hardly filled


def start(numba_layer: bool | None = None) -> None:
    """Let Numba's layer run the pieces, or the pool, with default_threads().

    None: Numba's layer where a variable asks for it or the pool cannot run. Call it while no kernel
    runs. Raises InputError if the layer cannot be loaded.
    """
    global _kind
    if numba_layer is None:
        numba_layer = asked_for() or not HAS_WAITING
    _kind = load_layer() if numba_layer else Pool
    set_threads(None)


def most() -> int:
    """Return the largest number of threads."""
    return MOST if _kind is Pool else numba.config.NUMBA_NUM_THREADS


def set_threads(n: int | None) -> int:
    """Use n threads (None: default_threads()) in all Python threads, and return the number.

    Call it while no kernel runs. Raises InputError unless n is in 1 .. most().
    """
    n = default_threads() if n is None else n
    if not 1 <= n <= most():
        more = "" if _kind is Pool else f", or start more with the variable NUMBA_NUM_THREADS={n}"
        raise InputError(f"{n} threads: choose --threads 1 .. {most()}{more}.")
    global _threads
    if _threads is None or _threads.threads != n or type(_threads) is not _kind:
        if _threads is not None:
            _threads.stop()
        _threads = _kind(n)
    return n


def count() -> int:
    """Return the number of threads of a kernel, the same in every Python thread."""
    return 1 if _threads is None else _threads.threads


def pieces(items: int) -> int:
    """Return the pieces of a task whose result is the same for any number of pieces.

    items: the images, tiles or chunks that they divide. With many of them each thread gets two
    pieces, so that one can do more while another is put aside; with four it is no faster.
    """
    return max(1, min(items, MOST, count() * (2 if items >= 2 * ITEMS * count() else 1)))


def parts(items: int) -> int:
    """Return the pieces of a task that sums over items (images, rows): one partial sum for each.

    The number depends on the items alone. So sums are added up in the same order, and results are
    bit-identical, for any number of threads.
    """
    return max(1, min(items, max(PARTS, min(MOST_PARTS, items // SUMMED))))


_kind: type[Pool] | type[NumbasThreads] = Pool
_threads: Pool | NumbasThreads | None = None
_one_kernel = threading.Lock()
_forked = False


@serial
def _run_alone(function, pieces, at):
    for piece in range(pieces):
        call(function, piece, pieces, 0, at)


@serial
def _run_list_alone(tasks):
    for i in range(len(tasks)):
        _run_alone(tasks[i, 0], tasks[i, 1], tasks[i, 2])


def run(function: int, pieces: int, at: int) -> None:
    """Run the pieces of the compiled task at address `function` with the arguments at `at`.

    One task at a time in this process uses the threads; meanwhile other Python threads run theirs
    alone. Why? A task uses all cores, so that two at a time would only take turns. Raises
    InputError in a forked process: the threads exist only in its parent, and it would wait forever.
    """
    _take_turns(_threads.run, _run_alone, function, pieces, at)


def run_list(tasks: np.ndarray) -> None:
    """Run tasks one after the other, as `run` does each: int64 [tasks, 3], its three arguments."""
    _take_turns(_threads.run_list, _run_list_alone, tasks)


def _take_turns(together: Callable[..., None], alone: Callable[..., None], *args: Any) -> None:
    """Call `together`, which uses the threads, or `alone` while another Python thread does."""
    if _forked:
        raise InputError(
            "the numba backend was in use before this process was forked, and its threads are not "
            "copied: start processes with multiprocessing.get_context('spawn'), or choose the "
            "backend numpy in them."
        )
    if not _one_kernel.acquire(blocking=False):
        alone(*args)
        return
    try:
        together(*args)
    finally:
        _one_kernel.release()


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def default_threads() -> int:
    """Return the variable NUMBA_NUM_THREADS if it is set, else the number of usable cores."""
    asked = numba.config.NUMBA_NUM_THREADS
    n = asked if "NUMBA_NUM_THREADS" in os.environ else min(usable_cores(), asked)
    return min(n, most())
