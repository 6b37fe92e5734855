"""Random numbers as a pure function of (seed, purpose, step, element): Philox4x32-10.

A counter-based generator has no state: the noise of step 1,000 is computed from the number 1,000,
not from the 999 draws before it. So a resumed run needs no saved generator, any thread can compute
any element, and the same seed gives the same sample on every backend (integers bit for bit, normals
to rounding).

Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
"""

import math
import threading
from typing import NamedTuple

import numpy as np

from minddpm import backend
from minddpm.backend import Array
from minddpm.errors import InputError
from minddpm.kernels import reference

# A purpose separates streams of the same seed and step; its upper 24 bits number sub-streams.
INIT, SHUFFLE, TIMESTEP, NOISE, X_T, SAMPLE, DROPOUT, CHECK, BOUND, LABEL = range(10)
AUGMENT, LATENT, METRIC, BOOTSTRAP, PIXELS, DEQUANTISE, TRACE = range(10, 17)

_MAX_SEED = 2**32 - 1


def check_counter(purpose: int, step: int) -> None:
    """Raise InputError if purpose or step are out of range."""
    # Larger values would silently overflow into the next word of the counter or key.
    if not (0 <= purpose < 2**32 and 0 <= step < 2**64):
        raise InputError(f"purpose {purpose} or step {step} is out of range: call manual_seed.")


def check_seed(seed: int) -> int:
    """Return seed, or raise InputError if it is not an integer in 0 .. 2^32 - 1."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
        raise InputError(f"the seed must be an integer, not {seed!r}: choose 0 .. {_MAX_SEED}.")
    if not 0 <= seed <= _MAX_SEED:
        raise InputError(f"the seed {seed} is out of range: choose 0 .. {_MAX_SEED}.")
    return int(seed)


def normal(shape: tuple[int, ...], seed: int, purpose: int, step: int = 0, first: int = 0) -> Array:
    """Draw standard normal float32 [shape] on the active backend (Box-Muller).

    seed and purpose: 0 .. 2^32 - 1; step: 0 .. 2^64 - 1. first: the index of the first element,
    so that a large array can be drawn in parts.
    """
    n = math.prod(shape)
    check_counter(purpose, step)
    flat = backend.kernels.random_normal(backend.xp, n, check_seed(seed), purpose, step, first)
    return flat.reshape(shape)


class Stream(NamedTuple):
    """The arguments of `normal`, for a kernel that draws the numbers while it uses them."""

    seed: int
    purpose: int
    step: int
    first: int = 0

    def normal(self, shape: tuple[int, ...]) -> Array:
        """Draw the numbers into an array."""
        return normal(shape, self.seed, self.purpose, self.step, self.first)


def uniform(shape: tuple[int, ...], seed: int, purpose: int, step: int = 0) -> Array:
    """Draw uniform float32 [shape] in [0, 1), multiples of 2^-24, on the active backend."""
    n = math.prod(shape)
    check_counter(purpose, step)
    flat = backend.kernels.random_uniform(backend.xp, n, check_seed(seed), purpose, step)
    return flat.reshape(shape)


def bits(n: int, seed: int, purpose: int, step: int = 0) -> np.ndarray:
    """Draw n random uint32 on the host."""
    check_counter(purpose, step)
    return reference.random_bits(np, n, check_seed(seed), purpose, step)


def integers(high: int, n: int, seed: int, purpose: int, step: int = 0) -> np.ndarray:
    """Draw n integers in 0 .. high - 1, int64 [n], on the host.

    Each integer is floor(bits * high / 2^32). For high = 1000, the probabilities of two integers
    differ by at most a factor 1 + high / 2^32 = 1 + 2.3e-7, which is negligible here.
    """
    return ((bits(n, seed, purpose, step).astype(np.uint64) * np.uint64(high)) >> 32).astype(
        np.int64
    )


def permutation(n: int, seed: int, purpose: int, step: int = 0) -> np.ndarray:
    """Draw a permutation of 0 .. n - 1, int64 [n], on the host: the argsort of 64-bit keys."""
    high, low = bits(2 * n, seed, purpose, step).astype(np.uint64).reshape(2, n)
    return np.argsort(high << np.uint64(32) | low, kind="stable")


# "Ambient" draws happen inside models, which pass no seed or step; manual_seed sets both.
class _Ambient(threading.local):
    """Seed, step, number of the last draw inside a model, and image, of this Python thread."""

    seed = 0
    step = 0
    draw = 0
    image = 0  # of the batch: the first one that the model is given


_ambient = _Ambient()


def manual_seed(seed: int, step: int = 0, image: int = 0) -> None:
    """Set the seed and step of the next draws inside models (initial weights, dropout masks).

    image: the index, in its batch, of the first image that the model is then given, so that a part
    of a batch gets the masks that it has in the whole batch. Each Python thread has its own; a new
    one begins with 0. The trainer calls this at every step, so that dropout depends on (seed, step)
    alone.
    """
    set_ambient(check_seed(seed), 0, image, step)


def ambient() -> tuple[int, int, int, int]:
    """Return seed, number of the last draw, first image and step, for set_ambient."""
    return _ambient.seed, _ambient.draw, _ambient.image, _ambient.step


def set_ambient(seed: int, draw: int, image: int, step: int) -> None:
    """Let the next draws inside models be those after ambient() returned these numbers."""
    _ambient.seed, _ambient.draw, _ambient.image, _ambient.step = seed, draw, image, step


def ambient_uniform(shape: tuple[int, ...], purpose: int) -> Array:
    """Draw the next uniform numbers after manual_seed: float32 [shape] in [0, 1)."""
    return uniform(shape, *ambient_stream(purpose)[:3])


def ambient_stream(purpose: int, image_size: int = 0) -> Stream:
    """Return the stream of the next draw, for callers that draw the numbers.

    image_size: how many numbers each image needs; 0 if the draw is not one for images.
    """
    _ambient.draw += 1
    first = _ambient.image * image_size
    return Stream(_ambient.seed, purpose | _ambient.draw << 8, _ambient.step, first)


def ambient_normal(shape: tuple[int, ...], purpose: int) -> Array:
    """Draw the next normal numbers after manual_seed: float32 [shape]."""
    return normal(shape, *ambient_stream(purpose))
