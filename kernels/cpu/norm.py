"""Group normalisation with or without SiLU: few passes over each image while it is in the cache."""

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.arrange import summed
from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.memory import (
    add_floats,
    address,
    clear,
    copy_floats,
    empty,
    items,
    workspace,
)
from minddpm.kernels.cpu.norm_lines import fold, fold_sums, line_moments, spread
from minddpm.kernels.cpu.norm_steps import (
    CHANNEL_ROWS,
    channels_at,
    gradient,
    gradient_sums,
    group_moments,
    group_slopes,
    normalise,
    spread_groups,
)
from minddpm.kernels.cpu.task import as_float, bits, integers, task
from minddpm.kernels.float32 import float32_only


@float32_only
def group_norm(x, weight, bias, groups: int, eps: float):
    return _normalised(x, weight, bias, groups, eps, False)


@float32_only
def group_norm_backward(gy, x, weight, mean, rstd, groups: int, partial=None):
    # Without SiLU the gradient does not depend on the bias: any array [C] will do.
    return _gradients(gy, x, weight, weight, mean, rstd, groups, False, partial)


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
    P, F = x[0].size // C, fold(C)
    space = workspace(_floats(P, C, F, 1))
    _forward(
        threads.pieces(N), N, P, C, F, groups, bits(eps), silu, address(x), address(weight),
        address(bias), address(y), address(mean), address(rstd), address(space), space.strides[0],
    )  # fmt: skip
    return y, mean, rstd


def _gradients(gy, x, weight, bias, mean, rstd, groups, silu, partial=None):
    """Return gx, gw, gb."""
    N, C = x.shape[0], x.shape[-1]
    P, F = x[0].size // C, fold(C)
    gx, space, parts = empty(x.shape), workspace(_floats(P, C, F, 2)), threads.parts(N)
    gw, gb = empty((parts, C)), empty((parts, C))
    _backward(
        parts, N, P, C, F, groups, silu, address(gy), address(x), address(weight),
        address(bias), address(mean), address(rstd), address(partial), address(gx), address(gw),
        address(gb), gw.strides[0], address(space), space.strides[0],
    )  # fmt: skip
    return gx, summed(gw), summed(gb)


# --- a piece -------------------------------------------------------------------------------------
#
# F pixels are a line (norm_lines.py). If F = 1 the passes read and write the images themselves, and
# `wide` is `narrow`, and spread and fold_sums change nothing; else a copy in working memory, of
# complete lines.


@task
def _forward(piece, pieces, worker, arguments):
    (
        N, P, C, F, groups, eps, silu, x, weight, bias, y, mean, rstd, space, row,
    ) = integers(arguments, 15)  # fmt: skip
    space += worker * row
    lines, line = -(-P // F), F * C
    narrow, wide, wide_bias, buffer = _places(space, C, F, bias)
    for n in items(N, piece, pieces):
        from_x, to = x + n * P * C * 4, y + n * P * C * 4
        if F > 1:
            copy_floats(from_x, buffer, P * C)
            from_x = to = buffer
        line_moments(from_x, P, C, F, narrow, wide)
        out = n * groups * 4
        group_moments(narrow, C, groups, P, as_float(eps), weight, mean + out, rstd + out)
        spread(narrow.mean, wide.mean, C, F)
        spread(narrow.scale, wide.scale, C, F)
        normalise(
            from_x, to, lines, line, 4 * line, 4 * line, silu, wide.mean, wide.scale, wide_bias
        )
        if F > 1:
            copy_floats(buffer, y + n * P * C * 4, P * C)


@task
def _backward(piece, pieces, worker, arguments):
    (
        N, P, C, F, groups, silu, gy, x, weight, bias, mean, rstd, partial, gx, gw, gb, sums_row,
        space, row,
    ) = integers(arguments, 19)  # fmt: skip
    gw, gb, space = gw + piece * sums_row, gb + piece * sums_row, space + worker * row
    lines, line = -(-P // F), F * C
    narrow, wide, wide_bias, wide_x = _places(space, C, F, bias)
    wide_g, step, rest = wide_x + lines * line * 4, 4 * line, lines * line - P * C
    if F > 1:
        clear(wide_x + P * C * 4, rest)
    clear(gw, C)
    clear(gb, C)
    for n in items(N, piece, pieces):
        shift = n * P * C * 4
        from_x, from_gy, to, stats = x + shift, gy + shift, gx + shift, n * groups * 4
        spread_groups(narrow, C, groups, weight, mean + stats, rstd + stats)
        if F > 1:
            copy_floats(from_x, wide_x, P * C)
            copy_floats(from_gy, wide_g, P * C)
            clear(wide_g + P * C * 4, rest)
            from_x, from_gy, to = wide_x, wide_g, wide_g
        spread(narrow.mean, wide.mean, C, F)
        spread(narrow.scale, wide.scale, C, F)
        clear(wide.first, 2 * line)  # also `second`, which follows `first`
        gradient_sums(
            from_x, from_gy, to, lines, line, step, step, silu, wide.mean, wide.scale, wide_bias,
            wide.first, wide.second,
        )  # fmt: skip
        fold_sums(wide.first, narrow.first, C, F)
        fold_sums(wide.second, narrow.second, C, F)
        group_slopes(narrow, C, groups, P, weight, rstd + stats, gw, gb)
        spread(narrow.slope, wide.slope, C, F)
        spread(narrow.shift, wide.shift, C, F)
        more = partial + shift if partial else 0
        gradient(
            from_x, to, to, lines, line, step, step, wide.mean, wide.scale, wide.slope, wide.shift,
            more if F == 1 else 0, wide.zeros,
        )  # fmt: skip
        if F > 1 and more:
            add_floats(wide_g, more, gx + shift, P * C)
        elif F > 1:
            copy_floats(wide_g, gx + shift, P * C)


@serial
def _places(space, C, F, bias):
    """Return the Channels of a pixel and of a line, the bias of a line, and where images begin."""
    wide = channels_at(space, F * C)
    end = space + CHANNEL_ROWS * F * C * 4
    if F == 1:
        return wide, wide, bias, end
    spread(bias, end, C, F)
    narrow = end + F * C * 4
    return channels_at(narrow, C), wide, end, narrow + CHANNEL_ROWS * C * 4


def _floats(P: int, C: int, F: int, images: int) -> int:
    """Return the working memory of a thread in floats, with `images` images if they are copied."""
    if F == 1:
        return CHANNEL_ROWS * C
    lines = -(-P // F)
    return (CHANNEL_ROWS + 1) * F * C + CHANNEL_ROWS * C + images * lines * F * C
