"""Interpolation between the noise of two images, which sampling turns into images between them."""

from collections.abc import Iterator, Sequence

import numpy as np

from minddpm import backend
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.diffusion.losses import GaussianDiffusion
from minddpm.diffusion.sampling.ddim import ddim
from minddpm.diffusion.sampling.steps import Spacing, Step


def interpolate(
    diffusion: GaussianDiffusion, model: Model, first: Array, second: Array,
    shares: Sequence[float], steps: int | None = None, *, spacing: Spacing = "leading",
) -> Iterator[Step]:  # fmt: skip
    """Sample by DDIM, which adds no noise, from slerp(first, second, share) for each share.

    first, second: noise [N, H, W, C], such as that of two images by `invert`. Each Step has
    [len(shares) N, H, W, C]: N images for each share in turn. Other arguments: sampling/steps.py.
    """
    x_T = backend.xp.concatenate([slerp(first, second, float(share)) for share in shares])
    return ddim(diffusion, model, x_T.shape, steps, x_T=x_T, spacing=spacing)


def nearer_labels(first: np.ndarray, second: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Return the label of the nearer end for each image of `interpolate`, [len(shares) N]."""
    return np.concatenate([second if share > 0.5 else first for share in shares])


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
