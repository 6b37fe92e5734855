"""Group normalisation, alone and followed by SiLU."""

import math

from minddpm.kernels.arrays import Array, array_module
from minddpm.kernels.reference.pointwise import add_to, silu, silu_backward


def spread(groups: Array, x: Array) -> Array:
    """Repeat each group's value for each of its channels: [N, G] -> [N, 1, ..., 1, C], to fit x."""
    N, C = x.shape[0], x.shape[-1]
    channels = groups.repeat(C // groups.shape[1], axis=1)
    return channels.reshape(N, *(1,) * (x.ndim - 2), C)


def normalised(x: Array, mean: Array, rstd: Array) -> Array:
    """Return (x - mean) rstd, with the mean and rstd [N, G] of the groups."""
    n = x - spread(mean, x)
    n *= spread(rstd, x)
    return n


def _group_mean(x: Array, groups: int) -> Array:
    """Return the mean over the pixels and channels of each group: [N, ..., C] -> [N, G]."""
    # Pixels first: this adds rows of C neighbouring values, several times as fast as strided
    # access to the C / G channels of one group.
    N, *sides, C = x.shape
    channels = x.reshape(N, math.prod(sides), C).mean(axis=1)
    return channels.reshape(N, groups, C // groups).mean(axis=2)


def group_norm(
    x: Array, weight: Array, bias: Array, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """Normalise each group of channels of each image to mean 0, std 1 (Wu and He 2018).

    x [N, ..., C], weight and bias [C]; C divisible by groups
    -> y = (x - mean) rstd weight + bias, and mean and rstd = 1 / sqrt(var + eps), both [N, G].
    """
    xp = array_module(x)
    mean = _group_mean(x, groups)
    y = x - spread(mean, x)
    # The variance of the centred values: E[x^2] - E[x]^2 would cancel where |mean| >> std.
    rstd = 1 / xp.sqrt(_group_mean(xp.square(y), groups) + eps)
    y *= spread(rstd, x) * weight
    y += bias
    return y, mean, rstd


def group_norm_backward(
    gy: Array, x: Array, weight: Array, mean: Array, rstd: Array, groups: int,
    partial: Array | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Return gx, gweight, gbias for y = n weight + bias, n = (x - mean) rstd.

    gn = gy weight;  gweight = sum gy n;  gbias = sum gy
    mean and rstd depend on every x of the group, so two averages are subtracted:
    gx = rstd (gn - avg(gn) - n avg(gn n))
    """
    C = x.shape[-1]
    n = normalised(x, mean, rstd)
    gy_n = gy * n
    gw, gb = gy_n.reshape(-1, C).sum(axis=0), gy.reshape(-1, C).sum(axis=0)
    gx = gy * weight
    gx -= spread(_group_mean(gx, groups), x)
    gy_n *= weight
    n *= spread(_group_mean(gy_n, groups), x)
    gx -= n
    gx *= spread(rstd, x)
    return add_to(gx, partial), gw, gb


def group_norm_silu(
    x: Array, weight: Array, bias: Array, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """Return silu(group_norm(x)), as before the UNet's convolutions, and mean, rstd."""
    y, mean, rstd = group_norm(x, weight, bias, groups, eps)
    return silu(y), mean, rstd


def group_norm_silu_backward(
    gy: Array, x: Array, weight: Array, bias: Array, mean: Array, rstd: Array, groups: int
) -> tuple[Array, Array, Array]:
    """Return gx, gweight, gbias; the value between norm and SiLU is computed again from x."""
    gy = silu_backward(gy, normalised(x, mean, rstd) * weight + bias)
    return group_norm_backward(gy, x, weight, mean, rstd, groups)
