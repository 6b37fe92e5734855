"""Rung 6: the operations before and after a convolution, done while the image is in the cache.

Winograd (rungs 4 and 5) copies each image into a bordered buffer first, and writes each result
tile once. So a pointwise operation just before or after the convolution needs no pass over memory
of its own if it is done during these copies:

    copying in     concatenation of two parts, upsampling, GroupNorm with SiLU
    copying out    the bias (which may differ between images: the time embedding), and the
                   addition of the residual path

Measured: norm, SiLU, convolution, bias and residual together are about 2 to 3 times as fast as in
PyTorch's best layout (the "half block" of kernels/README.md), and need no memory in between.

Nothing between x and y is saved for the backward, which normalises x again while copying x in, and
propagates the gradient through the normalisation while copying the gradient out of its buffers.
"""

from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.ladder.layer import bordered_size, tile_counts
from minddpm.kernels.cpu.memory import (
    add_columns,
    add_floats,
    clear,
    column_sum,
    copy_floats,
    copy_image,
    copy_pixels,
    pairs,
    write_ahead,
)
from minddpm.kernels.cpu.norm_steps import (
    gradient,
    gradient_sums,
    group_moments,
    group_slopes,
    moments,
    normalise,
    spread_groups,
)
from minddpm.kernels.cpu.task import as_float
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES


@serial
def load_part(s, x, C, start, to, PW, Cp, source, at):
    """Copy a part of an image to channels start .. start + C - 1 of the bordered image at `to`."""
    inner = to + (s.top * PW + s.left) * Cp * 4 + start * 4
    if s.groups:
        shift = 4 * start
        for i in range(s.H):
            normalise(
                x + i * s.W * C * 4, inner + i * PW * Cp * 4, s.W, C, 4 * C, 4 * Cp, True,
                at.mean + shift, at.scale + shift, source.bias + shift,
            )  # fmt: skip
    elif s.up == 2:
        for i in range(s.H):
            for j in range(s.W):
                pixel = x + ((i // 2) * (s.W // 2) + j // 2) * C * 4
                copy_floats(pixel, inner + (i * PW + j) * Cp * 4, C)
    else:
        copy_image(x, s.H, s.W, C, to + start * 4, s.top, s.left, s.top + s.H, PW, Cp)


@serial
def load_image(s, n, source, at, to, measure):
    """Copy image n into the bordered one at `to`; mean, rstd: compute if `measure`, else read."""
    _, PW, Cp = bordered_size(s)
    pixels, C = s.H * s.W, s.C1 + s.C2
    size = pixels // (s.up * s.up) * 4  # bytes of one channel
    x1, x2 = source.x1 + n * size * s.C1, source.x2 + n * size * s.C2
    if s.groups:
        mean, rstd = source.mean + n * s.groups * 4, source.rstd + n * s.groups * 4
        if measure:
            moments(x1, pixels, s.C1, at.first, at.second, at.mean)
            if s.C2:
                shift = 4 * s.C1
                moments(x2, pixels, s.C2, at.first + shift, at.second + shift, at.mean + shift)
            group_moments(at, C, s.groups, pixels, as_float(s.eps), source.weight, mean, rstd)
        else:
            spread_groups(at, C, s.groups, source.weight, mean, rstd)
    load_part(s, x1, s.C1, 0, to, PW, Cp, source, at)
    if s.C2:
        load_part(s, x2, s.C2, s.C1, to, PW, Cp, source, at)


@serial
def fetch_result(s, f, n, scratch):
    """Bring image n of y and of extra into the cache, in order of memory; scratch: a vector.

    Tiles are written line by line, here and there: a core would wait for each line.
    """
    size = s.OH * s.OW * s.C_out
    if size >= LANES:
        write_ahead((f.y + 4 * n * size, size // LANES))
        if f.extra:
            # Reading it is the purpose: nobody needs the sum.
            column_sum((f.extra + 4 * n * size, size // LANES, BYTES, scratch))


@serial
def load_gradient(s, n, b, to, with_sums):
    """Return the address of gy of image n in complete tiles and pairs; store its sums in gb.

    If the image does not consist of them, it is copied to `to` and padded with zeros.
    """
    (TH, TW), Cp_out = tile_counts(s), pairs(s.C_out) * LANES
    gy, sums = b.gy + n * s.OH * s.OW * s.C_out * 4, b.gb + n * Cp_out * 4
    if (s.OH, s.OW, s.C_out) != (TH * s.M, TW * s.M, Cp_out):
        copy_image(gy, s.OH, s.OW, s.C_out, to, 0, 0, TH * s.M, TW * s.M, Cp_out)
        gy = to
    if with_sums:
        clear(sums, Cp_out)
        add_columns(gy, TH * TW * s.M * s.M, Cp_out, sums)
    return gy


@serial
def sums_of_part(s, x, C, start, inner, PW, Cp, source, at):
    """Overwrite the gradient with dz and add up the channels' sums for one part of an image."""
    shift = 4 * start
    for i in range(s.H):
        line = inner + i * PW * Cp * 4 + shift
        gradient_sums(
            x + i * s.W * C * 4, line, line, s.W, C, 4 * C, 4 * Cp, True, at.mean + shift,
            at.scale + shift, source.bias + shift, at.first + shift, at.second + shift,
        )  # fmt: skip


@serial
def unload_part(s, x, more, gx, C, start, inner, PW, Cp, at):
    """Compute gx of one part of an image from the gradient of the bordered image.

    more: a gradient to be added to that of the normalisation, or 0.
    """
    shift = 4 * start
    if s.groups:
        for i in range(s.H):
            line = i * s.W * C * 4
            gradient(
                x + line, inner + i * PW * Cp * 4 + shift, gx + line, s.W, C, 4 * C, 4 * Cp,
                at.mean + shift, at.scale + shift, at.slope + shift, at.shift + shift,
                more + line if more else 0, at.zeros,
            )  # fmt: skip
    elif s.up == 2:
        for i in range(0, s.H, 2):
            for j in range(0, s.W, 2):
                pixel = gx + ((i // 2) * (s.W // 2) + j // 2) * C * 4
                a = inner + (i * PW + j) * Cp * 4 + shift
                b = a + PW * Cp * 4
                add_floats(a, a + Cp * 4, pixel, C)
                add_floats(pixel, b, pixel, C)
                add_floats(pixel, b + Cp * 4, pixel, C)
    else:
        for i in range(s.H):
            line = inner + i * PW * Cp * 4 + shift
            copy_pixels(line, gx + i * s.W * C * 4, s.W, C, 4 * Cp, 4 * C)


@serial
def unload_gradient(s, n, source, at, q_at, b, gnorm):
    """Compute gx of image n from the bordered gradient at q_at, and add to gnorm [2, C']."""
    _, PW, Cp = bordered_size(s)
    inner = q_at + (s.top * PW + s.left) * Cp * 4
    pixels, C = s.H * s.W, s.C1 + s.C2
    size = pixels // (s.up * s.up) * 4
    x1, x2 = source.x1 + n * size * s.C1, source.x2 + n * size * s.C2
    if s.groups:
        mean, rstd = source.mean + n * s.groups * 4, source.rstd + n * s.groups * 4
        spread_groups(at, C, s.groups, source.weight, mean, rstd)
        clear(at.first, 2 * C)  # also `second`, which follows `first`
        sums_of_part(s, x1, s.C1, 0, inner, PW, Cp, source, at)
        if s.C2:
            sums_of_part(s, x2, s.C2, s.C1, inner, PW, Cp, source, at)
        group_slopes(at, C, s.groups, pixels, source.weight, rstd, gnorm, gnorm + Cp * 4)
    first, second = n * size * s.C1, n * size * s.C2
    more1, more2 = b.more1 + first if b.more1 else 0, b.more2 + second if b.more2 else 0
    unload_part(s, x1, more1, b.gx1 + first, s.C1, 0, inner, PW, Cp, at)
    if s.C2:
        unload_part(s, x2, more2, b.gx2 + second, s.C2, s.C1, inner, PW, Cp, at)
