"""Rows of a product, tile by tile: shared by conv3_implicit.py and matrix_product.py."""

from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.memory import add_floats, copy_floats
from minddpm.kernels.cpu.vector.gemm import (
    HALF,
    strided_product,
    strided_product_half,
    strided_product_narrow,
)
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES, ROWS

PAIR = 2 * LANES  # channels of the result in one tile
TILE_SPACE = (ROWS + 1) * PAIR  # floats of scratch for tile_rows: a tile, then a row of zeros


@serial
def tile_rows(
    a,
    segments,
    a_segment,
    length,
    a_row,
    count,
    packed,
    C_out,
    bias,
    extra,
    extra_row,
    y,
    y_row,
    space,
):
    """Compute `count` rows of a product, at most ROWS, for all C_out output channels.

    Addresses and steps are in bytes: A as in strided_product; bias [C_out'], zeros beyond C_out;
    extra: rows to be added, none if extra_row = 0; space: TILE_SPACE floats, the last row zero.
    """
    b_size = segments * length * 2 * BYTES
    zeros = space + ROWS * 2 * BYTES
    for k in range(0, C_out, PAIR):
        width = min(PAIR, C_out - k)
        rows = HALF if count <= HALF and width > LANES else ROWS
        complete = count == rows and width == PAIR
        more, more_row = (extra + 4 * k, extra_row) if complete and extra_row else (zeros, 0)
        to, to_row = (y + 4 * k, y_row) if complete else (space, 2 * BYTES)
        b = packed + k // PAIR * b_size
        arguments = (
            a, segments, a_segment, length, a_row, b, bias + 4 * k, more, more_row, to, to_row,
        )  # fmt: skip
        if width <= LANES:
            strided_product_narrow(arguments)
        elif rows == ROWS:
            strided_product(arguments)
        else:
            strided_product_half(arguments)
        if not complete:  # only the part of the tile within y is copied
            for m in range(count):
                source, out = space + m * 2 * BYTES, y + m * y_row + 4 * k
                if extra_row:
                    add_floats(source, extra + m * extra_row + 4 * k, out, width)
                else:
                    copy_floats(source, out, width)
