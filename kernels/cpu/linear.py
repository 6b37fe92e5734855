"""Linear layers and 1x1 convolutions: the rows of x go through the register tile where they lie.

x may come in parts that stand side by side (the joined pictures of the UNet's way up): each part
meets its own lines of w, so that nothing is ever joined in memory.

    y = sum over parts of x_p w_p + b;  gx_p = gy w_p^T;  gw_p = x_p^T gy;  gb = column sums of gy
"""

import numpy as np

from minddpm.kernels.cpu.constant_weights import from_weights
from minddpm.kernels.cpu.memory import (
    add_columns,
    address,
    clear,
    copy_pixels,
    pairs,
    serial,
    share,
    workspace,
)
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.gemm import ROWS_T, transposed_product
from minddpm.kernels.cpu.vector.instructions import BYTES, ROWS, W
from minddpm.kernels.cpu.vector.tile import TILE_SPACE, pack, padded_bias, tile_rows

BLOCK = 128 // ROWS * ROWS  # rows whose gradients are taken together, so that they stay in L1


@serial
def product_rows(first, last, x, C, packed, K, bias, add, y, space, spare):
    """Rows first .. last - 1 of y = x w + bias, added to what y holds if add.

    spare: ROWS C floats for a last tile, which must not read beyond the end of x.
    """
    for r in range(first, last, ROWS):
        count, from_x, to = min(ROWS, last - r), x + r * C * 4, y + r * K * 4
        if count < ROWS:
            copy_pixels(from_x, spare, count, C, 4 * C, 4 * C)
            from_x = spare
        tile_rows(
            from_x, 1, 0, C, 4 * C, count, packed, K, bias, to, 4 * K if add else 0, to, 4 * K,
            space,
        )  # fmt: skip


@task
def _forward(t, threads, at):
    """The parts' (x, C, packed weights) follow the other numbers."""
    R, K, bias, y, space, row, parts = integers(at, 7)
    space += t * row
    zeros = space + TILE_SPACE * 4  # the bias of all parts but the first
    spare = zeros + pairs(K) * BYTES
    clear(space, TILE_SPACE + pairs(K) * W)
    for r in range(share(R, t, threads), share(R, t + 1, threads), BLOCK):
        last = min(r + BLOCK, share(R, t + 1, threads))
        for p in range(parts):
            x, C, packed = integers(at + 8 * (7 + 3 * p), 3)
            first = bias if p == 0 else zeros
            product_rows(r, last, x, C, packed, K, first, p > 0, y, space, spare)


def linear(xs, w, b):
    """y of kernels.reference.linear."""
    K = w.shape[1]
    y = np.empty((*xs[0].shape[:-1], K), np.float32)
    parts, kept, start = [], [], 0
    for x in xs:
        C = x.shape[-1]
        kept.append(from_weights(pack, w[start : start + C]))  # held until the kernel has read it
        parts += address(x), C, address(kept[-1])
        start += C
    bias = from_weights(padded_bias, b, K)
    space = workspace(TILE_SPACE + pairs(K) * W + ROWS * start)
    _forward(
        len(space), y.size // K, K, address(bias), address(y), address(space), space.strides[0],
        len(xs), *parts,
    )  # fmt: skip
    return y


@task
def _backward(t, threads, at):
    """gx of one part, and this thread's gw [C', K'] and gb [K]."""
    (R, gy, K, x, C, packed, bias, gx, gw, gw_row, gb, gb_row, sum_gy, space, row) = integers(
        at, 15
    )
    gw, gb, space = gw + t * gw_row, gb + t * gb_row, space + t * row
    Cp, Kp = (C + ROWS_T - 1) // ROWS_T * ROWS_T, pairs(K) * W
    spare = space + TILE_SPACE * 4
    x_block = spare + ROWS * K * 4
    gy_block = x_block + BLOCK * Cp * 4
    clear(space, TILE_SPACE + ROWS * K + BLOCK * (Cp + Kp))
    clear(gw, Cp * Kp)
    clear(gb, K)
    for r in range(share(R, t, threads), share(R, t + 1, threads), BLOCK):
        count = min(BLOCK, share(R, t + 1, threads) - r)
        from_gy, from_x = gy + r * K * 4, x + r * C * 4
        if gx:
            product_rows(r, r + count, gy, K, packed, C, bias, False, gx, space, spare)
        if sum_gy:
            add_columns(from_gy, count, K, gb)
        # Whole tiles only: a matrix that is not made of them goes by way of a padded block.
        if Cp != C:
            copy_pixels(from_x, x_block, count, C, 4 * C, 4 * Cp)
            from_x = x_block
        if Kp != K:
            copy_pixels(from_gy, gy_block, count, K, 4 * K, 4 * Kp)
            from_gy = gy_block
        for c in range(0, Cp, ROWS_T):
            for k in range(0, Kp, 2 * W):
                out = gw + (c * Kp + k) * 4
                transposed_product(
                    (
                        from_x + 4 * c, 0, 4 * Cp, from_gy + 4 * k, 0, 4 * Kp, BYTES, 1, count,
                        out, 4 * Kp, out, 4 * Kp,
                    )
                )  # fmt: skip


def linear_backward(gy, xs, w):
    """gxs, gw, gb of kernels.reference.linear_backward."""
    K = w.shape[1]
    R, Kp = gy.size // K, pairs(K) * W
    gxs, gws, start = [], [], 0
    for x in xs:
        C = x.shape[-1]
        Cp = -(-C // ROWS_T) * ROWS_T
        gx = np.empty(x.shape, np.float32)
        packed, bias = pack(w[start : start + C].T), padded_bias(None, C)
        space = workspace(TILE_SPACE + ROWS * K + BLOCK * (Cp + Kp))
        gw = workspace(Cp * Kp, slot=1)
        if start == 0:
            gb = np.empty((len(space), K), np.float32)
        _backward(
            len(space), R, address(gy), K, address(x), C, address(packed), address(bias),
            address(gx), address(gw), gw.strides[0], address(gb), gb.strides[0], start == 0,
            address(space), space.strides[0],
        )  # fmt: skip
        total = gw[:, : Cp * Kp].sum(axis=0).reshape(Cp, Kp)
        gws.append(total[:C, :K])
        gxs.append(gx)
        if start == 0:
            sums = gb.sum(axis=0)
        start += C
    return tuple(gxs), np.concatenate(gws), sums
