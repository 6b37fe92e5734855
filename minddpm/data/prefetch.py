"""The images of a step, read from disk while the step before it computes."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np


class Prefetched:
    """Returns (indices(step), read(indices(step))); with `ahead` it then reads the next step's.

    indices is called in the thread of the caller, read in another one.
    """

    def __init__(
        self,
        indices: Callable[[int], np.ndarray],
        read: Callable[[np.ndarray], np.ndarray],
        ahead: bool,
    ):
        self._indices, self._read = indices, read
        self._thread = ThreadPoolExecutor(1) if ahead else None
        self._next: tuple[int, np.ndarray, Future] | None = None

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        if self._next is not None and self._next[0] == step:
            _, chosen, future = self._next
            images = future.result()
        else:
            chosen = self._indices(step)
            images = self._read(chosen)
        if self._thread is not None:
            following = self._indices(step + 1)
            self._next = step + 1, following, self._thread.submit(self._read, following)
        return chosen, images
