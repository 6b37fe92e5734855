"""The decorator of compiled functions that tasks call; task.py has that of tasks."""

from numba import njit

# Called from tasks, within one thread.
serial = njit(nogil=True, cache=True)
