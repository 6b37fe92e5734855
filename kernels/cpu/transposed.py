"""Transposed convolution: what a convolution does to the gradient of its picture.

Which way it is computed depends on the shape:

    pictures of one pixel     a matrix product: each pixel meets the whole window (rows.py)
    3x3 or 1x1, stride 1      a convolution with the window turned, by the ladder
    4x4, stride 2, padding 1  one 3x3 convolution by Winograd, where that pays (subpixel.py)
    anything else             rung 3's gradient of x with a bias, here

The gradient of x is the convolution itself, and that of w the convolution's with x and gy
exchanged: here both read the one bordered picture of gy.
"""

import numpy as np

from minddpm.kernels.cpu import linear as rows
from minddpm.kernels.cpu import subpixel
from minddpm.kernels.cpu.constant_weights import from_weights
from minddpm.kernels.cpu.ladder.choose import choose, is_product, is_wide_3x3
from minddpm.kernels.cpu.ladder.conv3_implicit import (
    FEW,
    bordered_floats,
    convolve,
    convolve_few,
    gives_few,
    gradient_floats,
    gradient_layout,
    gradient_of_w,
    gradient_of_x,
    gradient_sizes,
    pack_phases,
    summed,
    transposed,
)
from minddpm.kernels.cpu.ladder.shape import SHAPE, Shape
from minddpm.kernels.cpu.memory import (
    add_columns,
    address,
    clear,
    copy_picture,
    share,
    workspace,
)
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.instructions import W
from minddpm.kernels.cpu.vector.tile import TILE_SPACE, pack, padded_bias
from minddpm.kernels.pixels import are_pixels, window_columns
from minddpm.kernels.shapes import transposed_shape


def is_of_the_ladder(y_shape, w_shape, stride, padding) -> bool:
    """Whether the convolution whose transpose this is has a rung with fewer operations."""
    sizes = y_shape, w_shape, stride, padding
    return is_wide_3x3(*sizes) or is_product(*sizes)


def turned(w: np.ndarray) -> np.ndarray:
    """By 180 degrees, and its channels swapped."""
    return np.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))


def conv_transpose2d(x, w, b, stride, padding):
    """y of kernels.reference.conv_transpose2d."""
    y_shape = transposed_shape(x.shape, w.shape, stride, padding)
    KH, KW = w.shape[:2]
    if are_pixels(x.shape, padding):
        columns, bias = from_weights(window_columns, w), from_weights(np.tile, b, KH * KW)
        return rows.linear((x[:, 0, 0],), columns, bias).reshape(y_shape)
    if is_of_the_ladder(y_shape, w.shape, stride, padding):
        ((top, bottom), (left, right)), u = padding, from_weights(turned, w)
        around = (KH - 1 - top, KH - 1 - bottom), (KW - 1 - left, KW - 1 - right)
        return choose(x.shape, u.shape, 1, around).forward(x, u, b, 1, around)
    if subpixel.pays(x.shape, w.shape, stride, padding):
        return subpixel.forward(x, w, b)
    return _by_phases(x, w, b, stride, padding, y_shape)


@task
def _forward(t, threads, at):
    """s is the convolution whose transpose this is: from pictures like y to pictures like x."""
    s = Shape(*integers(at, SHAPE))
    x, phases, packed, bias, y, space, row = integers(at + 8 * SHAPE, 7)
    space += t * row
    border_h, border_w, height, width = gradient_sizes(s)
    picture = space + TILE_SPACE * 4
    clear(space, TILE_SPACE + gradient_floats(s))
    for n in range(share(s.N, t, threads), share(s.N, t + 1, threads)):
        from_x = x + n * s.OH * s.OW * s.K * 4
        copy_picture(from_x, s.OH, s.OW, s.K, picture, border_h, border_w, height, width, s.K)
        gradient_of_x(s, picture, phases, packed, bias, y + n * s.H * s.W * s.C * 4, space)


def _by_phases(x, w, b, stride, padding, y_shape):
    """For any window, stride and padding."""
    s = Shape.of(y_shape, w.shape, stride, padding)
    y = np.empty(y_shape, np.float32)
    packed, phases = from_weights(pack_phases, w, stride, gives_few(s))
    bias = from_weights(padded_bias, b, s.C)
    space = workspace(TILE_SPACE + gradient_floats(s))
    _forward(
        len(space), *s, address(x), address(phases), address(packed), address(bias), address(y),
        address(space), space.strides[0],
    )  # fmt: skip
    return y


@task
def _backward(t, threads, at):
    s = Shape(*integers(at, SHAPE))
    few_dots, few, gy, x, w, bias, gx, gw, gw_row, gb, gb_row, space, row = integers(
        at + 8 * SHAPE, 13
    )
    gw, gb, space = gw + t * gw_row, gb + t * gb_row, space + t * row
    PH, PW = (s.OH - 1) * s.stride + s.KH, (s.OW - 1) * s.stride + s.KW
    lines, columns = gradient_layout(s, few)
    picture = space + TILE_SPACE * 4
    x_at = picture + bordered_floats(s) * 4
    clear(space, TILE_SPACE + bordered_floats(s))
    clear(gw, s.KH * lines * columns)
    clear(gb, s.C)
    line, x_line = PW * s.C * 4, s.OW * s.K * 4
    for n in range(share(s.N, t, threads), share(s.N, t + 1, threads)):
        from_gy, from_x = gy + n * s.H * s.W * s.C * 4, x + n * s.OH * x_line
        copy_picture(from_gy, s.H, s.W, s.C, picture, s.top, s.left, PH, PW, s.C)
        copy_picture(from_x, s.OH, s.OW, s.K, x_at, 0, 0, s.OH, s.OW, s.K)
        gradient_of_w(s, few, picture, line, x_at, x_line, gw)
        add_columns(from_gy, s.H * s.W, s.C, gb)
        to = gx + n * s.OH * x_line
        if gx and few_dots:
            convolve_few(
                picture, line, s.C, s.KH, s.KW, s.stride, w, s.K, bias, to, s.OH, s.OW, x_line,
                s.K * 4, space,
            )  # fmt: skip
        elif gx:
            convolve(
                picture, line, s.C, s.KH, s.KW, s.stride, w, s.K, bias, to, s.OH, s.OW, x_line,
                s.K * 4, space,
            )  # fmt: skip


def backward(gy, x, w, stride, padding, need_gx):
    """gx, gw, gb of kernels.reference.conv_transpose2d_backward, for any window."""
    if subpixel.pays(x.shape, w.shape, stride, padding):
        return subpixel.backward(gy, x, w, need_gx)
    s = Shape.of(gy.shape, w.shape, stride, padding)
    few = s.K <= FEW
    few_dots = few and s.KW * s.C % W == 0
    packed = (transposed if few_dots else pack)(w.reshape(-1, s.K))
    bias = padded_bias(None, s.K)
    gx = np.empty(x.shape, np.float32) if need_gx else None
    lines, columns = gradient_layout(s, few)
    x_floats = s.OH * s.OW * s.K + 2 * W  # the last tile reads beyond the end
    space = workspace(TILE_SPACE + bordered_floats(s) + x_floats)
    gw, gb = workspace(s.KH * lines * columns, slot=1), workspace(s.C, slot=2)
    _backward(
        len(space), *s, few_dots, few, address(gy), address(x), address(packed), address(bias),
        address(gx), address(gw), gw.strides[0], address(gb), gb.strides[0], address(space),
        space.strides[0],
    )  # fmt: skip
    return gx, summed(gw, s, few).reshape(w.shape), gb[:, : s.C].sum(axis=0)
