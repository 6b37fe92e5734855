"""The recorder of this Python thread's kernels: None, or one of the two classes of record.py.

Kernels take their memory from `empty`, and give the addresses of arrays to tasks by `address`
(memory.py); tasks run by Task.__call__ (task.py). Each of them asks here.recorder first.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np


class Recorder(Protocol):
    def empty(self, shape: Any, kind: Any) -> np.ndarray:
        """Return the memory of a result or of an intermediate array."""

    def keep(self, x: np.ndarray) -> None:
        """Notice that a task may read or write the memory of x."""

    def add(self, function: int, pieces: int, numbers: tuple[int, ...]) -> None:
        """Notice that a task runs."""


class _Here(threading.local):
    recorder: Recorder | None = None

    def __init__(self) -> None:
        # The step of a random stream is read by the task at an address, since it changes in replay.
        self.step = np.zeros(1, np.int64)


here = _Here()


def is_recording() -> bool:
    return here.recorder is not None


@contextmanager
def recorded_by(recorder: Recorder | None) -> Iterator[None]:
    """Within the block, tell the recorder (None: none) what the kernels of this thread do."""
    before, here.recorder = here.recorder, recorder
    try:
        yield
    finally:
        here.recorder = before
