"""The problem that every UNet of a comparison solves: a configuration, weights and a batch."""

from typing import Any, NamedTuple

import numpy as np

import minddpm
from cases import normal

LR, CLIP, DECAY, T = 1e-4, 1.0, 0.999, 1000
DISTINCT = 8  # images in a batch that differ


class Problem(NamedTuple):
    """A configuration of the UNet and its inputs."""

    config: dict[str, Any]
    x0: np.ndarray  # [N, H, W, C]
    t: np.ndarray  # [N]
    noise: np.ndarray  # [N, H, W, C]

    @property
    def batch(self) -> int:
        return len(self.x0)

    @property
    def tolerance(self) -> float:
        """Tolerance of the losses: with dropout, libraries draw different numbers."""
        return 0.05 if self.config.get("dropout") else 1e-3


def problem(config: dict[str, Any], N: int, size: int | None = None) -> Problem:
    """Return N random images for this configuration, of size `size` (default: its sample_size).

    At most DISTINCT of them differ. The loss and the gradient are averages over the batch, so they
    equal those of the first DISTINCT images, and the slow reference needs to compute only these.
    """
    rng = np.random.default_rng(0)
    size = size or config["sample_size"]
    distinct = min(N, DISTINCT)
    shape = (distinct, size, size, config["in_channels"])
    arrays = normal(rng, *shape), rng.integers(0, T, distinct), normal(rng, *shape)
    assert N % distinct == 0
    x0, t, noise = (np.concatenate([a] * (N // distinct)) for a in arrays)
    return Problem({**config, "sample_size": size}, x0, t, noise)


def our_unet(p: Problem) -> minddpm.UNet2D:
    """Return a UNet with random weights; the usual zero-initialised weights would hide errors."""
    minddpm.manual_seed(0)
    unet = minddpm.UNet2D(**p.config)
    rng = np.random.default_rng(1)
    for parameter in unet.parameters():
        if parameter.ndim > 1 and not parameter.data.any():
            parameter.data = normal(rng, *parameter.shape, scale=0.05)
    return unet
