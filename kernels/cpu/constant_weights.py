"""Cache transformed or packed weights while the weights are constant.

Training changes every weight at every step. But a sampler calls the same model a thousand times,
and for few images the convolution takes less time than the transformation of its weights.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minddpm.kernels.cpu.memory import address
from minddpm.kernels.cpu.recorder import recorded_by

Derived = dict[tuple[Any, ...], Any]


class _Cached(threading.local):
    """The cache of this Python thread: another one may be changing weights meanwhile."""

    derived: Derived | None = None


_cached = _Cached()


@contextmanager
def constant_weights(derived: Derived | None = None) -> Iterator[Derived]:
    """Declare that no weight changes within the block: arrays derived from weights are cached.

    derived: the result of an earlier block, if no weight has changed since.
    """
    before, _cached.derived = _cached.derived, {} if derived is None else derived
    try:
        yield _cached.derived
    finally:
        _cached.derived = before


def current() -> Derived | None:
    """Return the arrays derived from the weights that are constant now; None if they are not."""
    return _cached.derived


def from_weights(make: Callable[..., Any], w: np.ndarray | None, *args: Any) -> Any:
    """Return make(w, *args), or within constant_weights() the cached result for these arguments."""
    derived = _cached.derived
    if derived is None:
        return make(w, *args)
    shape, strides = (None, None) if w is None else (w.shape, w.strides)
    key = (make, address(w), shape, strides, *args)
    if key not in derived:
        # w is stored too: while it is referenced, no other array can have its address.
        with recorded_by(None):  # it is made once, not at every replay
            derived[key] = make(w, *args), w
    return derived[key][0]
