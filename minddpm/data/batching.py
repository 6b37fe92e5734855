"""The choice of images for each training step: a pure function of the seed and the step.

The permutations of epochs 0, 1, 2, ... form one endless stream, and step s takes the entries
[s B, (s + 1) B). So every image is used once in an epoch, a batch is never short at an epoch's end,
and a resumed run needs no saved state except the step number.
"""

from functools import lru_cache

import numpy as np

from minddpm import random
from minddpm.errors import InputError


def batch_indices(n: int, batch_size: int, step: int, seed: int) -> np.ndarray:
    """Return the indices of the images of training step ``step`` (0-based).

    n: number of images. batch_size: B, may exceed n. Returns int64 ``[B]`` in 0..n-1.
    Raises InputError if n or batch_size is below 1, or step below 0.
    """
    if n < 1 or batch_size < 1 or step < 0:
        raise InputError(
            f"batch_indices got n={n}, batch_size={batch_size}, step={step}; give at least one "
            "image, a batch size of at least 1 and a step of at least 0."
        )
    first, end = step * batch_size, (step + 1) * batch_size
    epochs = range(first // n, (end - 1) // n + 1)
    stream = np.concatenate([_epoch(n, seed, epoch) for epoch in epochs])
    skip = first - epochs[0] * n
    return stream[skip : skip + batch_size]


# Two epochs: a batch that spans two epochs needs both, and the next batch needs the later one.
@lru_cache(maxsize=2)
def _epoch(n: int, seed: int, epoch: int) -> np.ndarray:
    return random.permutation(n, seed, random.SHUFFLE, step=epoch)
