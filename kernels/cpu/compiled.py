"""Two decorators of compiled functions; task.py has the third, `task`."""

from collections.abc import Callable
from functools import partial, wraps

from numba import njit

from minddpm.kernels.cpu import threads

# Called from tasks, within one thread.
serial = njit(nogil=True, cache=True)


def parallel(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function that Python calls; its prange loops run in all threads."""
    compiled = njit(parallel=True, nogil=True, cache=True)(function)
    return wraps(function)(partial(threads.run, compiled))
