"""Initial weights."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from minddpm import random
from minddpm.backend import Array
from minddpm.errors import InputError

# A wrong configuration up to this much larger than the weights is explained by their names.
SLACK = 1_000_000
LEAST = 1000  # weights that an array counts at least, for the time that a layer takes

_left: ContextVar[float] = ContextVar("weights that may still be drawn", default=math.inf)


@contextmanager
def sized_for(tensors: dict[str, np.ndarray]) -> Iterator[None]:
    """Raise InputError if the model built in the block is far larger than these tensors.

    A configuration from a file may describe a model of any size, which would take memory and time
    before its tensors are compared.
    """
    token = _left.set(sum(max(array.size, LEAST) for array in tensors.values()) + SLACK)
    try:
        yield
    finally:
        _left.reset(token)


def _spend(shape: tuple[int, ...]) -> None:
    left = _left.get() - max(math.prod(shape), LEAST)
    if left < 0:
        raise InputError(
            "the configuration describes a far larger model than the weights beside it: use the "
            "configuration and the weights that came together."
        )
    _left.set(left)


def fan_in_uniform(shape: tuple[int, ...], fan_in: int) -> Array:
    """Draw float32 [shape], uniform in +-1/sqrt(fan_in): the default of PyTorch's layers.

    A sum of fan_in products is then about as large as one input: signals do not grow with fan_in.
    """
    _spend(shape)
    bound = 1 / math.sqrt(fan_in)
    return (random.ambient_uniform(shape, random.INIT) * 2 - 1) * bound


def standard_normal(shape: tuple[int, ...]) -> Array:
    """Draw standard normal float32 [shape]: the default of PyTorch's embedding tables."""
    _spend(shape)
    return random.ambient_normal(shape, random.INIT)
