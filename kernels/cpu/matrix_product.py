"""Linear layers and 1x1 convolutions: the register tile reads the rows of x in place.

x may have several parts, side by side along the last axis (as in the UNet's decoder): each part is
multiplied by its own rows of w, and no concatenated array is ever stored.

    y = sum over parts of x_p w_p + b;  gx_p = gy w_p^T;  gw_p = x_p^T gy;  gb = column sums of gy
"""

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.arrange import pack, padded_bias, summed
from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.constant_weights import from_weights
from minddpm.kernels.cpu.memory import (
    add_columns,
    address,
    clear,
    copy_pixels,
    empty,
    pairs,
    share,
    workspace,
)
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.gemm import ROWS_T, transposed_product
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES, ROWS
from minddpm.kernels.cpu.vector.tile import TILE_SPACE, tile_rows

BLOCK = 128 // ROWS * ROWS  # rows per step of the backward: few enough to stay in the L1 cache


@serial
def product_rows(first, last, x, C, packed, C_out, bias, extra, y, space, spare):
    """Compute rows first .. last - 1 of y = x w + bias + extra; extra may be y, or 0 for none.

    spare: ROWS C floats for a copy of the last tile's rows, so that it does not read beyond x.
    """
    for r in range(first, last, ROWS):
        count, from_x, to = min(ROWS, last - r), x + r * C * 4, y + r * C_out * 4
        if count < ROWS:
            copy_pixels(from_x, spare, count, C, 4 * C, 4 * C)
            from_x = spare
        more, more_row = (extra + r * C_out * 4, 4 * C_out) if extra else (0, 0)
        tile_rows(
            from_x, 1, 0, C, 4 * C, count, packed, C_out, bias, more, more_row, to, 4 * C_out, space
        )


@task
def _forward(piece, pieces, worker, at):
    """Compute y. Arguments: eight numbers, then x, C and the packed weights of each part."""
    R, C_out, bias, extra, y, space, row, parts = integers(at, 8)
    space += worker * row
    zeros = space + TILE_SPACE * 4  # the bias for all parts but the first
    spare = zeros + pairs(C_out) * BYTES
    clear(space, TILE_SPACE + pairs(C_out) * LANES)
    for r in range(share(R, piece, pieces), share(R, piece + 1, pieces), BLOCK):
        last = min(r + BLOCK, share(R, piece + 1, pieces))
        for p in range(parts):
            x, C, packed = integers(at + 8 * (8 + 3 * p), 3)
            first, more = (bias, extra) if p == 0 else (zeros, y)
            product_rows(r, last, x, C, packed, C_out, first, more, y, space, spare)


def forward(xs, w, b, extra=None):
    """Return y of kernels.reference.linear."""
    C_out = w.shape[1]
    y = empty((*xs[0].shape[:-1], C_out))
    R, parts, start = y.size // C_out, [], 0
    packed_parts = []  # keeps their memory alive until the kernel has read it
    for x in xs:
        C = x.shape[-1]
        packed_parts.append(from_weights(pack, w[start : start + C]))
        parts += address(x), C, address(packed_parts[-1])
        start += C
    bias = from_weights(padded_bias, b, C_out)
    space = workspace(TILE_SPACE + pairs(C_out) * LANES + ROWS * start)
    _forward(
        threads.pieces(-(-R // ROWS)), R, C_out, address(bias), address(extra), address(y),
        address(space), space.strides[0], len(xs), *parts,
    )  # fmt: skip
    return y


@task
def _backward(piece, pieces, worker, at):
    """Compute gx of one part of x, and this piece's gw [C', C_out'] and gb [C_out]."""
    (R, gy, C_out, x, C, packed, bias, more, gx, gw, gw_row, gb, gb_row, sum_gy, space, row) = (
        integers(at, 16)
    )
    gw, gb, space = gw + piece * gw_row, gb + piece * gb_row, space + worker * row
    Cp, Cp_out = (C + ROWS_T - 1) // ROWS_T * ROWS_T, pairs(C_out) * LANES
    spare = space + TILE_SPACE * 4
    x_block = spare + ROWS * C_out * 4
    gy_block = x_block + BLOCK * Cp * 4
    clear(space, TILE_SPACE + ROWS * C_out + BLOCK * (Cp + Cp_out))
    clear(gw, Cp * Cp_out)
    clear(gb, C_out)
    for r in range(share(R, piece, pieces), share(R, piece + 1, pieces), BLOCK):
        count = min(BLOCK, share(R, piece + 1, pieces) - r)
        from_gy, from_x = gy + r * C_out * 4, x + r * C * 4
        if gx:
            product_rows(r, r + count, gy, C_out, packed, C, bias, more, gx, space, spare)
        if sum_gy:
            add_columns(from_gy, count, C_out, gb)
        # A matrix that does not consist of complete tiles is copied into a padded block first.
        if Cp != C:
            copy_pixels(from_x, x_block, count, C, 4 * C, 4 * Cp)
            from_x = x_block
        if Cp_out != C_out:
            copy_pixels(from_gy, gy_block, count, C_out, 4 * C_out, 4 * Cp_out)
            from_gy = gy_block
        for c in range(0, Cp, ROWS_T):
            for k in range(0, Cp_out, 2 * LANES):
                out = gw + (c * Cp_out + k) * 4
                transposed_product(
                    (
                        from_x + 4 * c, 0, 4 * Cp, from_gy + 4 * k, 0, 4 * Cp_out, BYTES, 1, count,
                        out, 4 * Cp_out, out, 4 * Cp_out,
                    )
                )  # fmt: skip


def backward(gy, xs, w, partial=()):
    """Return gxs, gw, gb of kernels.reference.linear_backward."""
    partial = partial or (None,) * len(xs)
    C_out = w.shape[1]
    R, Cp_out = gy.size // C_out, pairs(C_out) * LANES
    gxs, gw_all, start, parts = [], empty(w.shape), 0, threads.parts(len(gy))
    for x, more in zip(xs, partial, strict=True):
        C = x.shape[-1]
        Cp = -(-C // ROWS_T) * ROWS_T
        gx = empty(x.shape)
        packed, bias = pack(w[start : start + C].T), padded_bias(None, C)
        space = workspace(TILE_SPACE + ROWS * C_out + BLOCK * (Cp + Cp_out))
        gw = workspace(Cp * Cp_out, 1, parts)
        if start == 0:
            gb = empty((parts, C_out))
        _backward(
            parts, R, address(gy), C_out, address(x), C, address(packed), address(bias),
            address(more), address(gx), address(gw), gw.strides[0], address(gb),
            gb.strides[0], start == 0, address(space), space.strides[0],
        )  # fmt: skip
        gw = gw[:, : Cp * Cp_out].reshape(parts, Cp, Cp_out)
        summed(gw[:, :C, :C_out], gw_all[start : start + C])
        gxs.append(gx)
        if start == 0:
            sums = summed(gb)
        start += C
    return tuple(gxs), gw_all, sums
