"""Transposed convolution for any window, stride and padding, on the loops of rung 3.

It is the backward of a convolution with respect to its image, plus a bias. So its own gradient of x
is that convolution applied to gy, and its gradient of w is the convolution's, with x and gy
exchanged. Both read the same bordered image of gy.
"""

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.arrange import pack, padded_bias, summed, transposed
from minddpm.kernels.cpu.constant_weights import from_weights
from minddpm.kernels.cpu.ladder.conv3_implicit import (
    FEW,
    bordered_floats,
    convolve,
    gives_few,
    gradient_floats,
    gradient_layout,
    gradient_of_w,
    gradient_of_x,
    gradient_sizes,
    over_bordered_image,
    pack_phases,
    weight_gradient,
)
from minddpm.kernels.cpu.ladder.shape import SHAPE, Shape
from minddpm.kernels.cpu.memory import (
    add_columns,
    address,
    clear,
    copy_image,
    empty,
    items,
    workspace,
)
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.instructions import LANES
from minddpm.kernels.cpu.vector.tile import TILE_SPACE
from minddpm.kernels.shapes import transposed_shape


@task
def _forward(piece, pieces, worker, at):
    """s: the sizes of the transposed convolution's convolution: y [H, W, C], x [OH, OW, C_out]."""
    s = Shape(*integers(at, SHAPE))
    x, phases, packed, bias, y, space, row = integers(at + 8 * SHAPE, 7)
    space += worker * row
    border_h, border_w, height, width = gradient_sizes(s)
    image = space + TILE_SPACE * 4
    clear(space, TILE_SPACE + gradient_floats(s))
    for n in items(s.N, piece, pieces):
        from_x = x + n * s.OH * s.OW * s.C_out * 4
        copy_image(from_x, s.OH, s.OW, s.C_out, image, border_h, border_w, height, width, s.C_out)
        gradient_of_x(s, image, phases, packed, bias, y + n * s.H * s.W * s.C * 4, space)


def forward(x, w, b, stride, padding):
    """Return y of kernels.reference.conv_transpose2d."""
    y_shape = transposed_shape(x.shape, w.shape, stride, padding)
    s = Shape.of(y_shape, w.shape, stride, padding)
    y = empty(y_shape)
    packed, phases = from_weights(pack_phases, w, stride, gives_few(s))
    bias = from_weights(padded_bias, b, s.C)
    space = workspace(TILE_SPACE + gradient_floats(s))
    _forward(
        threads.pieces(s.N), *s, address(x), address(phases), address(packed), address(bias),
        address(y), address(space), space.strides[0],
    )  # fmt: skip
    return y


@task
def _backward(piece, pieces, worker, at):
    s = Shape(*integers(at, SHAPE))
    few_dots, few, gy, x, w, bias, gx, gw, gw_row, gb, gb_row, space, row = integers(
        at + 8 * SHAPE, 13
    )
    gw, gb, space = gw + piece * gw_row, gb + piece * gb_row, space + worker * row
    PH, PW = (s.OH - 1) * s.stride + s.KH, (s.OW - 1) * s.stride + s.KW
    lines, columns = gradient_layout(s, few)
    image = space + TILE_SPACE * 4
    x_at = image + bordered_floats(s) * 4
    clear(space, TILE_SPACE + bordered_floats(s))
    clear(gw, s.KH * lines * columns)
    clear(gb, s.C)
    c = over_bordered_image(s)
    for n in items(s.N, piece, pieces):
        from_gy, from_x = gy + n * s.H * s.W * s.C * 4, x + n * s.OH * c.y_line
        copy_image(from_gy, s.H, s.W, s.C, image, s.top, s.left, PH, PW, s.C)
        copy_image(from_x, s.OH, s.OW, s.C_out, x_at, 0, 0, s.OH, s.OW, s.C_out)
        gradient_of_w(s, few, image, c.line, x_at, c.y_line, gw)
        add_columns(from_gy, s.H * s.W, s.C, gb)
        if gx:
            convolve(c, few_dots, image, w, bias, gx + n * s.OH * c.y_line, space)


def backward(gy, x, w, stride, padding, need_gx):
    """Return gx, gw, gb of kernels.reference.conv_transpose2d_backward."""
    s = Shape.of(gy.shape, w.shape, stride, padding)
    few = s.C_out <= FEW
    few_dots = few and s.KW * s.C % LANES == 0
    packed = (transposed if few_dots else pack)(w.reshape(-1, s.C_out))
    bias = padded_bias(None, s.C_out)
    gx = empty(x.shape) if need_gx else None
    lines, columns = gradient_layout(s, few)
    x_floats = s.OH * s.OW * s.C_out + 2 * LANES  # the last tile reads 2 LANES beyond the end
    space = workspace(TILE_SPACE + bordered_floats(s) + x_floats)
    parts = threads.parts(s.N)
    gw, gb = workspace(s.KH * lines * columns, 1, parts), workspace(s.C, 2, parts)
    _backward(
        parts, *s, few_dots, few, address(gy), address(x), address(packed), address(bias),
        address(gx), address(gw), gw.strides[0], address(gb), gb.strides[0], address(space),
        space.strides[0],
    )  # fmt: skip
    return gx, weight_gradient(gw, s, few).reshape(w.shape), summed(gb[:, : s.C])
