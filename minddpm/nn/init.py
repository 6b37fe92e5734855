"""Initial weights."""

import math

from minddpm import random
from minddpm.backend import Array


def fan_in_uniform(shape: tuple[int, ...], fan_in: int) -> Array:
    """Draw float32 [shape], uniform in +-1/sqrt(fan_in): the default of PyTorch's layers.

    A sum of fan_in products is then about as large as one input: signals do not grow with fan_in.
    """
    bound = 1 / math.sqrt(fan_in)
    return (random.ambient_uniform(shape, random.INIT) * 2 - 1) * bound


def standard_normal(shape: tuple[int, ...]) -> Array:
    """Draw standard normal float32 [shape]: the default of PyTorch's embedding tables."""
    return random.ambient_normal(shape, random.INIT)
