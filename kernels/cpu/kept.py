"""What is made of weights alone: transformed, packed. Kept where the weights are known to stay.

Training changes every weight at every step. But a sampler calls one model a thousand times, and a
convolution of few pictures takes less time than the transformation of its weights.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from minddpm.kernels.cpu.memory import address

Kept = dict[tuple[Any, ...], Any]
_kept: Kept | None = None


@contextmanager
def constant_weights(kept: Kept | None = None) -> Iterator[Kept]:
    """Within the block no weight changes: what was made of one is kept, and used again.

    kept: what an earlier block gave, if no weight has changed since.
    """
    global _kept
    before, _kept = _kept, {} if kept is None else kept
    try:
        yield _kept
    finally:
        _kept = before


def from_weights(make: Callable[..., Any], w: np.ndarray | None, *args: Any) -> Any:
    """make(w, *args), or what it returned before for this very array within constant_weights()."""
    if _kept is None:
        return make(w, *args)
    shape, strides = (None, None) if w is None else (w.shape, w.strides)
    key = (make, address(w), shape, strides, *args)
    if key not in _kept:
        # With w itself: as long as it is held, no other array can come to lie at its address.
        _kept[key] = make(w, *args), w
    return _kept[key][0]
