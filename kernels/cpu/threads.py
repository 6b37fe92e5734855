"""The threads of the kernels: their number, the library that starts them, and who may use them.

Any number of Python threads may call kernels: each has its own working memory (memory.py). One
kernel at a time uses the kernels' threads (run); others run meanwhile in their Python thread alone.
"""

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numba

from minddpm.errors import InputError

# Numba's own order begins with TBB, whose threads steal work. OpenMP gives a thread the same share
# of a loop each time, so the data that the thread wrote before is still in its cache.
NUMBAS_ORDER, ORDER = ["tbb", "omp", "workqueue"], ["omp", "tbb", "workqueue"]


def start() -> None:
    """Start the threads, and use default_threads() of them.

    Obeys NUMBA_THREADING_LAYER and NUMBA_THREADING_LAYER_PRIORITY. Without them and without OpenMP,
    prints on stderr what to install. Raises InputError if the layer NUMBA_THREADING_LAYER cannot be
    loaded.
    """
    if numba.config.THREADING_LAYER_PRIORITY == NUMBAS_ORDER:
        numba.config.THREADING_LAYER_PRIORITY = ORDER
    asked = numba.config.THREADING_LAYER
    try:
        set_threads(None)
        numba.set_num_threads(count())  # loads the layer
    except ValueError as error:
        raise InputError(
            f"Numba has no threading layer {asked!r} here: {_remedy(asked)}, or unset "
            "NUMBA_THREADING_LAYER."
        ) from error
    if numba.threading_layer() == "workqueue" and asked == "default":
        print(f"no OpenMP, the kernels will be slower: {_install_openmp()}", file=sys.stderr)


def _remedy(layer: str) -> str:
    if layer == "tbb":
        return "pip install tbb"
    return _install_openmp() if layer == "omp" else f"choose {' or '.join(ORDER)}"


def _install_openmp() -> str:
    if sys.platform == "darwin":
        return "install it (brew install libomp, or conda install llvm-openmp)"
    return "install it (the package libgomp1 of Debian and Ubuntu, libgomp of others)"


def set_threads(n: int | None) -> int:
    """Use n threads (None: default_threads()) in all Python threads, and return the number.

    Call it while no kernel runs. Raises InputError unless n is in 1 .. NUMBA_NUM_THREADS, the
    number of threads started by Numba.
    """
    most = numba.config.NUMBA_NUM_THREADS
    n = default_threads() if n is None else n
    if not 1 <= n <= most:
        raise InputError(
            f"{n} threads: choose --threads 1 .. {most}, or start more with the variable "
            f"NUMBA_NUM_THREADS={n}."
        )
    global _count
    _count = n
    return n


def count() -> int:
    """Return the number of threads of a kernel, the same in every Python thread."""
    return _count


_count = 1
_one_kernel = threading.Lock()
_forked = False


class _InThisThread(threading.local):
    """Numba has a number of threads for each Python thread; new ones begin with all cores."""

    numbas_count = 0


_here = _InThisThread()


def run(compiled: Callable[..., Any], *args: Any, alone: Callable[..., Any] | None = None) -> None:
    """Call a compiled function with a parallel loop, one at a time in this process.

    alone: the same without threads, called meanwhile by other Python threads; None: they wait.
    Why one at a time? A kernel uses all cores, so that two at a time would only take turns; and
    Numba's workqueue layer ends the process. Raises InputError in a forked process: the kernels'
    threads exist only in its parent, and OpenMP would wait for them forever.
    """
    if _forked:
        raise InputError(
            "the numba backend was in use before this process was forked, and its threads are not "
            "copied: start processes with multiprocessing.get_context('spawn'), or choose the "
            "backend numpy in them."
        )
    if not _one_kernel.acquire(blocking=alone is None):
        alone(*args)
        return
    try:
        if _here.numbas_count != _count:
            numba.set_num_threads(_count)
            _here.numbas_count = _count
        compiled(*args)
    finally:
        _one_kernel.release()


def _after_fork() -> None:
    global _forked
    _forked = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_after_fork)


def default_threads() -> int:
    """Return the variable NUMBA_NUM_THREADS if it is set, else the number of usable cores."""
    most = numba.config.NUMBA_NUM_THREADS
    return most if "NUMBA_NUM_THREADS" in os.environ else min(usable_cores(), most)


def usable_cores() -> int:
    """Return how many cores this process may use: the smaller of its affinity and its quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(-(-quota // 1))))  # rounded up


def cpu_quota(proc: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> float | None:
    """Return the CPU seconds per second that control groups (of a container) allow; None: no limit.

    Version 2: cpu.max holds "quota period" in microseconds, or "max period". Version 1: quota and
    period are in two files, and -1 is no limit. The limits of enclosing groups apply as well.
    """
    try:
        lines = Path(proc).read_text().splitlines()
    except OSError:  # not Linux
        return None
    limits = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = Path(root, "cpu") if controllers else Path(root)
        inner = PurePosixPath(group.lstrip("/"))
        # In a container its own group is the top, but /proc may still give the path from outside.
        for folder in (top / inner, *(top / outer for outer in inner.parents)):
            limits += _limit(folder)
    return min(limits, default=None)


def _limit(folder: Path) -> list[float]:
    """Return the quota of one group from its files, as a list; [] if there is none."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text()
        return [int(quota) / int(period)] if quota not in ("max", "-1") else []
    except (OSError, ValueError):
        return []
