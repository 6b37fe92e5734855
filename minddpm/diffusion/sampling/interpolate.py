"""Interpolation between the noise of two images, which sampling turns into images between them."""

from minddpm import backend
from minddpm.backend import Array


def slerp(a: Array, b: Array, share: float) -> Array:
    """From a (share 0) to b (share 1) along the sphere on which noise lies, image by image.

    slerp = sin((1 - share) angle) / sin(angle) a + sin(share angle) / sin(angle) b
    In many dimensions all normal vectors have nearly the same length; the straight way between two
    would pass through shorter ones, which are no noise that the model has seen (Shoemake 1985).
    """
    xp = backend.xp
    axes = tuple(range(1, a.ndim))
    lengths = xp.sqrt((a * a).sum(axis=axes, keepdims=True) * (b * b).sum(axis=axes, keepdims=True))
    angle = xp.arccos(((a * b).sum(axis=axes, keepdims=True) / lengths).clip(-1, 1))
    # sin(angle) is 0 where both are one direction: there any share is the same.
    angle = xp.maximum(angle, 1e-6)
    return (xp.sin((1 - share) * angle) * a + xp.sin(share * angle) * b) / xp.sin(angle)
