"""Rung 3: any convolution as an implicit matrix product; the patches are never stored.

Rung 2 copies the window under each output pixel into a matrix of patches, nine times the size of
the image for a 3x3 window, and multiplies. But in a channels-last image one line of a window is
already KW C neighbouring numbers, and the window of the next output pixel begins stride C numbers
later. So the register tile (vector/gemm.py) reads its rows directly from the image, which is first
copied into a zero-bordered buffer that stays in the cache of its core:

    y[i, j, :] = sum over kh of  window line [KW C] at (i stride + kh, j stride)  times  w[kh]

The gradient of w is the transposed product over the same rows. The gradient of x splits into
stride^2 phases: only the taps kh = r, r + stride, ... reach the pixels a = q stride + r - top of x,
so phase r of gx is a stride-1 convolution of gy with every stride-th tap, in reverse order:

    gx[a] = sum over u of gy[q - u] w[r + u stride]^T

Measured: 2 to 3 times as fast as rung 2, at 80-94% of the peak, like PyTorch's convolutions.
The same multiplications can hardly be done faster, so the next rungs need fewer of them.
"""

from itertools import product
from typing import NamedTuple

import numpy as np

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.arrange import copied, pack, padded_bias, summed, transposed
from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.constant_weights import from_weights
from minddpm.kernels.cpu.ladder.shape import SHAPE, Shape
from minddpm.kernels.cpu.memory import (
    add_columns,
    address,
    clear,
    copy_floats,
    copy_image,
    empty,
    floats,
    integers_at,
    items,
    pairs,
    workspace,
)
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.gemm import (
    DOTS,
    ROWS_T,
    WIDE,
    dots,
    transposed_product,
    transposed_product_narrow,
    transposed_product_wide,
)
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES, ROWS
from minddpm.kernels.cpu.vector.tile import TILE_SPACE, tile_rows

# Up to this many output channels the vectors run along the window, not the output channels.
FEW = 3


@serial
def bordered_floats(s):
    """Return the size of the bordered x in floats, with what the last tile reads beyond it."""
    PH, PW = (s.OH - 1) * s.stride + s.KH, (s.OW - 1) * s.stride + s.KW
    return PH * PW * s.C + (ROWS * s.stride + s.KW) * s.C + WIDE * LANES


class Convolution(NamedTuple):
    """A convolution of an image that already has its border: sizes, and steps in bytes."""

    C: int
    KH: int
    KW: int
    stride: int
    C_out: int
    OH: int
    OW: int
    line: int  # bytes from one line of the image to the next
    y_line: int  # bytes from one line of the result to the next
    y_pixel: int  # bytes from one pixel of the result to the next


@serial
def over_bordered_image(s):
    """Return the convolution s over its bordered x, with a result [OH, OW, C_out]."""
    PW = (s.OW - 1) * s.stride + s.KW
    return Convolution(
        C=s.C, KH=s.KH, KW=s.KW, stride=s.stride, C_out=s.C_out, OH=s.OH, OW=s.OW,
        line=PW * s.C * 4, y_line=s.OW * s.C_out * 4, y_pixel=s.C_out * 4,
    )  # fmt: skip


@serial
def convolve(c, few, image, w, bias, y, space):
    """Store the Convolution c of the image to y.

    w: as `pack` arranges it. If few, w is [C_out, KH, KW C], and the vectors run along the lines of
    the window, whose length must be a multiple of LANES.
    """
    if few:
        _convolve_by_dots(c, image, w, bias, y, space)
    else:
        _convolve_by_tiles(c, image, w, bias, y, space)


@serial
def _convolve_by_tiles(c, image, w, bias, y, space):
    step = c.stride * c.C * 4
    for i in range(c.OH):
        for j in range(0, c.OW, ROWS):
            tile_rows(
                image + i * c.stride * c.line + j * step, c.KH, c.line, c.KW * c.C, step,
                min(ROWS, c.OW - j), w, c.C_out, bias, 0, 0,
                y + i * c.y_line + j * c.y_pixel, c.y_pixel, space,
            )  # fmt: skip


@serial
def _convolve_by_dots(c, image, w, bias, y, space):
    step, out, b = c.stride * c.C * 4, floats(space, DOTS), floats(bias, c.C_out)
    for i in range(c.OH):
        for j in range(0, c.OW, DOTS):
            for k in range(c.C_out):
                dots(
                    (
                        image + i * c.stride * c.line + j * step, c.KH, c.line,
                        c.KW * c.C // LANES, step, w + k * c.KH * c.KW * c.C * 4, space,
                    )
                )  # fmt: skip
                for m in range(min(DOTS, c.OW - j)):
                    floats(y + i * c.y_line + (j + m) * c.y_pixel, c.C_out)[k] = out[m] + b[k]


@task
def _forward(piece, pieces, worker, at):
    s = Shape(*integers(at, SHAPE))
    few, x, w, bias, y, space, row = integers(at + 8 * SHAPE, 7)
    space += worker * row
    PH, PW = (s.OH - 1) * s.stride + s.KH, (s.OW - 1) * s.stride + s.KW
    image = space + TILE_SPACE * 4
    clear(space, TILE_SPACE + bordered_floats(s))
    c = over_bordered_image(s)
    for n in items(s.N, piece, pieces):
        copy_image(x + n * s.H * s.W * s.C * 4, s.H, s.W, s.C, image, s.top, s.left, PH, PW, s.C)
        convolve(c, few, image, w, bias, y + n * s.OH * c.y_line, space)


def conv2d(x, w, b, stride, padding):
    """Return y of kernels.reference.conv2d for any window, stride and padding."""
    s = Shape.of(x.shape, w.shape, stride, padding)
    y = empty((s.N, s.OH, s.OW, s.C_out))
    few = s.C_out <= FEW and s.KW * s.C % LANES == 0
    packed = from_weights(transposed if few else pack, w.reshape(-1, s.C_out))
    bias = from_weights(padded_bias, b, s.C_out)
    space = workspace(TILE_SPACE + bordered_floats(s))
    _forward(
        threads.pieces(s.N), *s, few, address(x), address(packed), address(bias), address(y),
        address(space), space.strides[0],
    )  # fmt: skip
    return y


# --- backward ------------------------------------------------------------------------------------


@serial
def gradient_sizes(s):
    """Return the borders, height and width of the zero-bordered gy, which all phases read."""
    border_h, border_w = (s.KH - 1) // s.stride, (s.KW - 1) // s.stride
    height = border_h + max(s.OH, (s.H - 1 + s.top) // s.stride + 1)
    width = border_w + max(s.OW, (s.W - 1 + s.left) // s.stride + 1)
    return border_h, border_w, height, width


@serial
def gradient_floats(s):
    """Return the size of the bordered gy in floats, with what the last tile reads beyond it."""
    _, _, height, width = gradient_sizes(s)
    return height * width * s.C_out + (ROWS + s.KW) * s.C_out + WIDE * LANES + 2 * LANES


@serial
def gives_few(s):
    """Return whether `convolve` computes the phases of the gradient of x with few=True."""
    return s.C <= FEW and s.C_out % LANES == 0


@serial
def gradient_of_x(s, g_at, phases, packed, bias, gx, space):
    """gx = the gradient of x of one image + bias, phase by phase; g_at: the zero-bordered gy."""
    starts = integers_at(phases, s.stride * s.stride)
    border_h, border_w, _, width = gradient_sizes(s)
    number = 0
    y_line, y_pixel = s.stride * s.W * s.C * 4, s.stride * s.C * 4
    for r in range(s.stride):
        for rw in range(s.stride):
            taps_h = (s.KH - r + s.stride - 1) // s.stride
            taps_w = (s.KW - rw + s.stride - 1) // s.stride
            a, b = (r - s.top) % s.stride, (rw - s.left) % s.stride  # the phase's first pixel of x
            rows = (s.H - a + s.stride - 1) // s.stride
            columns = (s.W - b + s.stride - 1) // s.stride
            q, qw = (a + s.top) // s.stride, (b + s.left) // s.stride
            from_h, from_w = q - taps_h + 1 + border_h, qw - taps_w + 1 + border_w
            to = gx + (a * s.W + b) * s.C * 4
            if taps_h <= 0 or taps_w <= 0:  # a window narrower than the stride skips these pixels
                for i in range(rows):
                    for j in range(columns):
                        copy_floats(bias, to + i * y_line + j * y_pixel, s.C)
            else:
                c = Convolution(
                    C=s.C_out, KH=taps_h, KW=taps_w, stride=1, C_out=s.C, OH=rows, OW=columns,
                    line=width * s.C_out * 4, y_line=y_line, y_pixel=y_pixel,
                )  # fmt: skip
                first_window = g_at + (from_h * width + from_w) * s.C_out * 4
                w = packed + starts[number] * 4
                convolve(c, gives_few(s), first_window, w, bias, to, space)
            number += 1


@serial
def gradient_layout(s, few):
    """Return (lines, columns) of the scratch for gw, [KH, lines, columns]: complete tiles.

    Lines correspond to numbers of a window line, columns to output channels; reversed if few.
    """
    D = s.KW * s.C
    if few:
        return s.C_out, (D + WIDE * LANES - 1) // (WIDE * LANES) * WIDE * LANES
    return (D + ROWS_T - 1) // ROWS_T * ROWS_T, pairs(s.C_out) * LANES


@serial
def gradient_of_w(s, few, image, line, gy, gy_line, gw):
    """gw [KH, lines, columns] += the transposed product of one bordered image with its gy."""
    lines, columns = gradient_layout(s, few)
    step = s.stride * s.C * 4
    for kh in range(s.KH):
        window = image + kh * line
        to = gw + kh * lines * columns * 4
        if few:
            for k in range(s.C_out):
                for d in range(0, columns, WIDE * LANES):
                    out = to + (k * columns + d) * 4
                    transposed_product_wide(
                        (
                            gy + 4 * k, gy_line, s.C_out * 4, window + 4 * d, s.stride * line, step,
                            BYTES, s.OH, s.OW, out, 0, out, 0,
                        )
                    )  # fmt: skip
        else:
            for d in range(0, lines, ROWS_T):
                for k in range(0, s.C_out, 2 * LANES):
                    out = to + (d * columns + k) * 4
                    arguments = (
                        window + 4 * d, s.stride * line, step, gy + 4 * k, gy_line, s.C_out * 4,
                        BYTES, s.OH, s.OW, out, columns * 4, out, columns * 4,
                    )  # fmt: skip
                    if s.C_out - k <= LANES:
                        transposed_product_narrow(arguments)
                    else:
                        transposed_product(arguments)


@task
def _backward(piece, pieces, worker, at):
    s = Shape(*integers(at, SHAPE))
    few, gy, x, phases, packed, bias, gx, gw, gw_row, gb, gb_row, space, row = integers(
        at + 8 * SHAPE, 13
    )
    gw, gb, space = gw + piece * gw_row, gb + piece * gb_row, space + worker * row
    PH, PW = (s.OH - 1) * s.stride + s.KH, (s.OW - 1) * s.stride + s.KW
    border_h, border_w, height, width = gradient_sizes(s)
    lines, columns = gradient_layout(s, few)
    image = space + TILE_SPACE * 4
    g_at = image + bordered_floats(s) * 4
    clear(space, TILE_SPACE + bordered_floats(s) + gradient_floats(s))
    clear(gw, s.KH * lines * columns)
    clear(gb, s.C_out)
    line, gy_line = PW * s.C * 4, width * s.C_out * 4
    inner = g_at + (border_h * width + border_w) * s.C_out * 4
    for n in items(s.N, piece, pieces):
        from_gy = gy + n * s.OH * s.OW * s.C_out * 4
        copy_image(x + n * s.H * s.W * s.C * 4, s.H, s.W, s.C, image, s.top, s.left, PH, PW, s.C)
        copy_image(from_gy, s.OH, s.OW, s.C_out, g_at, border_h, border_w, height, width, s.C_out)
        gradient_of_w(s, few, image, line, inner, gy_line, gw)
        add_columns(from_gy, s.OH * s.OW, s.C_out, gb)
        if gx:
            to = gx + n * s.H * s.W * s.C * 4
            gradient_of_x(s, g_at, phases, packed, bias, to, space)


def pack_phases(w, stride, few):
    """Return each phase's taps, reversed and transposed, in one buffer, and their offsets."""
    C, C_out = w.shape[2:]
    width, arrange = (C, transposed) if few else (pairs(C) * LANES, pack)
    phases = [w[r::stride, rw::stride][::-1, ::-1] for r, rw in product(range(stride), repeat=2)]
    sizes = [taps.shape[0] * taps.shape[1] * C_out * width for taps in phases]
    starts, packed = np.cumsum([0, *sizes[:-1]]), empty(sum(sizes))
    for taps, start, size in zip(phases, starts, sizes, strict=True):
        if size:
            rows = copied(taps.swapaxes(2, 3)).reshape(-1, C)
            arrange(rows, packed[start : start + size])
    return packed, starts


def conv2d_backward(gy, x, w, stride, padding, need_gx=True):
    """Return gx, gw, gb of kernels.reference.conv2d_backward for any window, stride, padding."""
    s = Shape.of(x.shape, w.shape, stride, padding)
    few = s.C_out <= FEW
    packed, phases = pack_phases(w, stride, gives_few(s))
    bias = padded_bias(None, s.C)
    gx = empty(x.shape) if need_gx else None
    lines, columns = gradient_layout(s, few)
    space = workspace(TILE_SPACE + bordered_floats(s) + gradient_floats(s))
    parts = threads.parts(s.N)
    gw, gb = workspace(s.KH * lines * columns, 1, parts), workspace(s.C_out, 2, parts)
    _backward(
        parts, *s, few, address(gy), address(x), address(phases), address(packed),
        address(bias), address(gx), address(gw), gw.strides[0], address(gb), gb.strides[0],
        address(space), space.strides[0],
    )  # fmt: skip
    return gx, weight_gradient(gw, s, few).reshape(w.shape), summed(gb[:, : s.C_out])


def weight_gradient(gw, s, few):
    """Return the sum of the pieces' gradients of w, [KH, KW C, C_out]."""
    lines, columns = gradient_layout(s, few)
    total = gw[:, : s.KH * lines * columns].reshape(len(gw), s.KH * lines, columns)
    total, D = summed(total).reshape(s.KH, lines, columns), s.KW * s.C
    return copied(total[:, :, :D].swapaxes(1, 2) if few else total[:, :D, : s.C_out])
