"""Interpolation between the noise of two images, which sampling turns into images between them."""

from minddpm import backend
from minddpm.backend import Array


def slerp(a: Array, b: Array, share: float) -> Array:
    """Return the point between a (share 0) and b (share 1) on the sphere of noise, for each image.

    slerp = sin((1 - share) angle) / sin(angle) a + sin(share angle) / sin(angle) b
    In many dimensions all normal vectors have nearly the same length; the straight line between two
    passes through shorter ones, which the model has never seen as noise (Shoemake 1985).
    """
    xp = backend.xp
    axes = tuple(range(1, a.ndim))
    lengths = xp.sqrt((a * a).sum(axis=axes, keepdims=True) * (b * b).sum(axis=axes, keepdims=True))
    angle = xp.arccos(((a * b).sum(axis=axes, keepdims=True) / lengths).clip(-1, 1))
    # sin(angle) is 0 where both have the same direction: there any share gives the same.
    angle = xp.maximum(angle, 1e-6)
    return (xp.sin((1 - share) * angle) * a + xp.sin(share * angle) * b) / xp.sin(angle)
