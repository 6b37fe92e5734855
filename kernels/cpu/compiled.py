"""Two decorators of compiled functions; task.py has the third, `task`."""

from numba import njit

# Called from tasks, within one thread.
serial = njit(nogil=True, cache=True)
# Called from Python; its prange loops run in all threads.
parallel = njit(parallel=True, nogil=True, cache=True)
