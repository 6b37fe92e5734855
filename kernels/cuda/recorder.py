"""Where the kernels of a recorded function read the step of their random draws."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from minddpm.kernels.arrays import Array


class _Here(threading.local):
    """The recorded function that this Python thread calls."""

    is_recording = False
    step: int | None = None
    at: Array | None = None


_here = _Here()


@contextmanager
def recorded(step: int | None, at: Array | None) -> Iterator[None]:
    """Within the block, the kernels of this thread are those of a recorded function.

    at: uint64 [1], which a replay changes; it has the number `step` now. None: nothing is drawn.
    """
    _here.is_recording, _here.step, _here.at = True, step, at
    try:
        yield
    finally:
        _here.is_recording, _here.step, _here.at = False, None, None


def is_recording() -> bool:
    return _here.is_recording


def step_at(step: int) -> Array | None:
    """Return where kernels read this step, if it can change in a replay."""
    return _here.at if step == _here.step else None
