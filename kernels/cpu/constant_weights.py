"""Cache transformed or packed weights while the weights are constant.

Training changes every weight at every step. But a sampler calls the same model a thousand times,
and for few images the convolution takes less time than the transformation of its weights.
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
    """Declare that no weight changes within the block: arrays derived from weights are cached.

    derived: the result of an earlier block, if no weight has changed since.
    """
    global _derived
    before, _derived = _derived, {} if derived is None else derived
    try:
        yield _derived
    finally:
        _derived = before


def from_weights(make: Callable[..., Any], w: np.ndarray | None, *args: Any) -> Any:
    """Return make(w, *args), or within constant_weights() the cached result for these arguments."""
    if _derived is None:
        return make(w, *args)
    shape, strides = (None, None) if w is None else (w.shape, w.strides)
    key = (make, address(w), shape, strides, *args)
    if key not in _derived:
        # w is stored too: while it is referenced, no other array can have its address.
        _derived[key] = make(w, *args), w
    return _derived[key][0]
