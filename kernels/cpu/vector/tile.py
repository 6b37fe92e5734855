"""Rows of a product, tile by tile: what conv3_implicit.py and rows.py share."""

import numpy as np

from minddpm.kernels.cpu.memory import add_floats, copy_floats, pairs, serial
from minddpm.kernels.cpu.vector.gemm import HALF, strided_product, strided_product_half
from minddpm.kernels.cpu.vector.instructions import BYTES, ROWS, W

PAIR = 2 * W  # channels of the result in one tile
TILE_SPACE = (ROWS + 1) * PAIR  # floats that tile_rows needs: a tile, and a row of zeros behind it


def pack(w: np.ndarray) -> np.ndarray:
    """A matrix [D, K] for the tile: [pairs of K, D, 2 W], zero beyond K."""
    D, K = w.shape
    columns = pairs(K) * W
    packed = np.zeros((D, columns), np.float32)
    packed[:, :K] = w
    return np.ascontiguousarray(packed.reshape(D, columns // PAIR, PAIR).swapaxes(0, 1))


def padded_bias(b, K: int) -> np.ndarray:
    """b, or zeros where it is None, with zeros up to whole pairs of vectors."""
    bias = np.zeros(pairs(K) * W, np.float32)
    if b is not None:
        bias[:K] = b
    return bias


@serial
def tile_rows(
    a, segments, a_segment, length, a_row, count, packed, K, bias, extra, extra_row, y, y_row, space
):
    """`count` rows of a product, at most ROWS, across all K output channels.

    Addresses and steps in bytes: A as strided_product describes it; bias [K'], zeros beyond K;
    extra: rows to be added, none where extra_row = 0; space: TILE_SPACE floats, the last row zero.
    """
    rows = HALF if count <= HALF else ROWS
    b_size = segments * length * 2 * BYTES
    zeros = space + ROWS * 2 * BYTES
    for k in range(0, K, PAIR):
        width = min(PAIR, K - k)
        whole = count == rows and width == PAIR
        more, more_row = (extra + 4 * k, extra_row) if whole and extra_row else (zeros, 0)
        to, to_row = (y + 4 * k, y_row) if whole else (space, 2 * BYTES)
        b = packed + k // PAIR * b_size
        arguments = (
            a, segments, a_segment, length, a_row, b, bias + 4 * k, more, more_row, to, to_row,
        )  # fmt: skip
        if rows == ROWS:
            strided_product(arguments)
        else:
            strided_product_half(arguments)
        if not whole:  # only the wanted part of the tile goes to y
            for m in range(count):
                source, out = space + m * 2 * BYTES, y + m * y_row + 4 * k
                if extra_row:
                    add_floats(source, extra + m * extra_row + 4 * k, out, width)
                else:
                    copy_floats(source, out, width)
