"""What is made of weights alone: transformed, packed. Kept where the weights are known to stay.

Training changes every weight at every step. But a sampler calls one model a thousand times, and a
convolution of few pictures takes less time than the transformation of its weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minddpm.kernels.cpu.memory import address

Derived = dict[tuple[Any, ...], Any]
_derived: Derived | None = None


@contextmanager
def constant_weights(derived: Derived | None = None) -> Iterator[Derived]:
    """Within the block no weight changes: what was made of one is kept, and used again.

    derived: what an earlier block gave, if no weight has changed since.
    """
    global _derived
    before, _derived = _derived, {} if derived is None else derived
    try:
        yield _derived
    finally:
        _derived = before


def from_weights(make: Callable[..., Any], w: np.ndarray | None, *args: Any) -> Any:
    """make(w, *args), or what it returned before for this very array within constant_weights()."""
    if _derived is None:
        return make(w, *args)
    shape, strides = (None, None) if w is None else (w.shape, w.strides)
    key = (make, address(w), shape, strides, *args)
    if key not in _derived:
        # With w itself: as long as it is held, no other array can come to lie at its address.
        _derived[key] = make(w, *args), w
    return _derived[key][0]
