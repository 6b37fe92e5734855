"""Group normalisation with or without SiLU: few passes over each image while it is in the cache."""

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.arrange import padded_bias, summed
from minddpm.kernels.cpu.constant_weights import from_weights
from minddpm.kernels.cpu.memory import address, clear, copy_pixels, empty, items, pairs, workspace
from minddpm.kernels.cpu.norm_steps import (
    CHANNEL_ROWS,
    channels_at,
    gradient,
    gradient_sums,
    group_moments,
    group_slopes,
    moments,
    normalise,
    spread_groups,
)
from minddpm.kernels.cpu.pointwise import add_to
from minddpm.kernels.cpu.task import as_float, bits, integers, task
from minddpm.kernels.cpu.vector.instructions import LANES
from minddpm.kernels.float32 import float32_only


@float32_only
def group_norm(x, weight, bias, groups: int, eps: float):
    return _normalised(x, weight, bias, groups, eps, False)


@float32_only
def group_norm_backward(gy, x, weight, mean, rstd, groups: int, partial=None):
    # Without SiLU the gradient does not depend on the bias: any array [C] will do.
    gx, gw, gb = _gradients(gy, x, weight, weight, mean, rstd, groups, False)
    return add_to(gx, partial), gw, gb


@float32_only
def group_norm_silu(x, weight, bias, groups: int, eps: float):
    return _normalised(x, weight, bias, groups, eps, True)


@float32_only
def group_norm_silu_backward(gy, x, weight, bias, mean, rstd, groups: int):
    return _gradients(gy, x, weight, bias, mean, rstd, groups, True)


def _normalised(x, weight, bias, groups, eps, silu):
    """Return y, mean, rstd."""
    N, C = x.shape[0], x.shape[-1]
    y = empty(x.shape)
    mean, rstd = empty((N, groups)), empty((N, groups))
    P, wide = x[0].size // C, from_weights(padded_bias, bias, C)
    space = workspace(_floats(P, C, 1))
    _forward(
        threads.pieces(N), N, P, C, groups, bits(eps), silu, address(x), address(weight),
        address(wide), address(y), address(mean), address(rstd), address(space), space.strides[0],
    )  # fmt: skip
    return y, mean, rstd


def _gradients(gy, x, weight, bias, mean, rstd, groups, silu):
    """Return gx, gw, gb."""
    N, C = x.shape[0], x.shape[-1]
    P, wide = x[0].size // C, padded_bias(bias, C)
    gx, space, parts = empty(x.shape), workspace(_floats(P, C, 2)), threads.parts(N)
    gw, gb = empty((parts, C)), empty((parts, C))
    _backward(
        parts, N, P, C, groups, silu, address(gy), address(x), address(weight),
        address(wide), address(mean), address(rstd), address(gx), address(gw), address(gb),
        gw.strides[0], address(space), space.strides[0],
    )  # fmt: skip
    return gx, summed(gw), summed(gb)


# --- a piece -------------------------------------------------------------------------------------


@task
def _forward(piece, pieces, worker, arguments):
    N, P, C, groups, eps, silu, x, weight, bias, y, mean, rstd, space, row = integers(arguments, 14)
    space += worker * row
    Cp = pairs(C) * LANES
    at, buffer = channels_at(space, Cp), space + CHANNEL_ROWS * Cp * 4
    if Cp != C:  # the passes need complete vectors: copy into a wider image
        clear(buffer, P * Cp)
    for n in items(N, piece, pieces):
        from_x, to = x + n * P * C * 4, y + n * P * C * 4
        if Cp != C:
            copy_pixels(from_x, buffer, P, C, 4 * C, 4 * Cp)
            from_x = to = buffer
        moments(from_x, P, Cp, at.first, at.second, at.mean)
        out = n * groups * 4
        group_moments(at, C, groups, P, as_float(eps), weight, mean + out, rstd + out)
        normalise(from_x, to, P, Cp, 4 * Cp, 4 * Cp, silu, at.mean, at.scale, bias)
        if Cp != C:
            copy_pixels(buffer, y + n * P * C * 4, P, C, 4 * Cp, 4 * C)


@task
def _backward(piece, pieces, worker, arguments):
    (
        N, P, C, groups, silu, gy, x, weight, bias, mean, rstd, gx, gw, gb, sums_row, space, row,
    ) = integers(arguments, 17)  # fmt: skip
    gw, gb, space = gw + piece * sums_row, gb + piece * sums_row, space + worker * row
    Cp = pairs(C) * LANES
    at, step = channels_at(space, Cp), 4 * Cp
    wide_x = space + CHANNEL_ROWS * Cp * 4
    wide_g = wide_x + P * Cp * 4
    if Cp != C:
        clear(wide_x, 2 * P * Cp)
    clear(gw, C)
    clear(gb, C)
    for n in items(N, piece, pieces):
        shift = n * P * C * 4
        from_x, from_gy, to, stats = x + shift, gy + shift, gx + shift, n * groups * 4
        if Cp != C:
            copy_pixels(from_x, wide_x, P, C, 4 * C, 4 * Cp)
            copy_pixels(from_gy, wide_g, P, C, 4 * C, 4 * Cp)
            from_x, from_gy, to = wide_x, wide_g, wide_g
        spread_groups(at, C, groups, weight, mean + stats, rstd + stats)
        clear(at.first, 2 * Cp)  # also `second`, which follows `first`
        gradient_sums(
            from_x, from_gy, to, P, Cp, step, step, silu, at.mean, at.scale, bias, at.first,
            at.second,
        )  # fmt: skip
        group_slopes(at, C, groups, P, weight, rstd + stats, gw, gb)
        gradient(from_x, to, to, P, Cp, step, step, at.mean, at.scale, at.slope, at.shift)
        if Cp != C:
            copy_pixels(wide_g, gx + shift, P, C, 4 * Cp, 4 * C)


def _floats(P: int, C: int, images: int) -> int:
    """Return the working memory of a thread in floats, with `images` wide images if C is padded."""
    Cp = pairs(C) * LANES
    return CHANNEL_ROWS * Cp + (images * P * Cp if Cp != C else 0)
