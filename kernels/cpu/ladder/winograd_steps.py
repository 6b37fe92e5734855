"""The steps of Winograd's algorithm, each for the tiles of one thread.

V, D and Z are stored in blocks of LANES channels, [blocks, points, tiles, LANES]. So each row of a
register tile is one vector, and every address inside the product's loop is a constant.

Forward: images -> V (to points), Z = V U at each point, Z -> result. Backward: gy -> D,
dU += V^T D and dV = D U^T at each point, dV -> gradient. conv4_winograd.py derives them.
"""

from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.ladder.layer import block_size, bordered_size, tile_counts
from minddpm.kernels.cpu.ladder.winograd_tiles import (
    d_from_points_2,
    d_from_points_4,
    d_to_points_2,
    d_to_points_4,
    from_points_2,
    from_points_4,
    to_points_2,
    to_points_4,
)
from minddpm.kernels.cpu.memory import add_floats, copy_floats, pairs
from minddpm.kernels.cpu.vector.gemm import (
    HALF,
    ROWS_T,
    panel_product,
    panel_product_half,
    transposed_product,
)
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES, ROWS


@serial
def images_to_points(s, p_at, v_at, start, count):
    """Transform tiles start .. start + count - 1 of a group of bordered images into V."""
    (TH, TW), (PH, PW, Cp) = tile_counts(s), bordered_size(s)
    block, pixel = block_size(s), Cp * 4
    for q in range(count):
        n, r = divmod(start + q, TH * TW)
        i, j = divmod(r, TW)
        at = p_at + ((n * PH + i * s.M) * PW + j * s.M) * pixel
        for c in range(Cp // LANES):
            arguments = (
                at + c * BYTES, v_at + c * block + q * BYTES, s.tiles * BYTES, PW * pixel, pixel,
            )  # fmt: skip
            if s.M == 4:
                to_points_4(arguments)
            else:
                to_points_2(arguments)


@serial
def products(s, a_at, u, c_at, count, blocks_in, blocks_out, first, last):
    """Multiply [count, C] by [C, 2 LANES] for pieces first .. last - 1.

    A piece is a pair of blocks of the result at one point; the pieces of a point are consecutive.
    """
    points, block = (s.M + 2) * (s.M + 2), block_size(s)
    for piece in range(first, last):
        p, k = divmod(piece, blocks_out // 2)
        b = u + (k * points + p) * blocks_in * LANES * 2 * BYTES
        for m in range(0, count, ROWS):
            at = (p * s.tiles + m) * BYTES
            arguments = (a_at + at, b, c_at + 2 * k * block + at, blocks_in, block, block)
            if count - m <= HALF:
                panel_product_half(arguments)
            else:
                panel_product(arguments)


@serial
def points_to_result(s, z_at, first, start, count, f, spare):
    """Transform the tiles of a chunk back, with bias and extra, to y [N, OH, OW, C_out].

    f: a layer.Forward. spare: a vector of zeros, and one tile of all channels for tiles that lie
    partly outside y.
    """
    (TH, TW), block, Cp_out = tile_counts(s), block_size(s), pairs(s.C_out) * LANES
    tile = spare + BYTES
    for q in range(count):
        n, r = divmod(start + q, TH * TW)
        i, j = divmod(r, TW)
        rows, columns = min(s.M, s.OH - i * s.M), min(s.M, s.OW - j * s.M)
        complete = rows == s.M and columns == s.M and Cp_out == s.C_out
        shift = (((first + n) * s.OH + i * s.M) * s.OW + j * s.M) * s.C_out * 4
        pixel = s.C_out * 4 if complete else Cp_out * 4
        line = s.OW * pixel if complete else s.M * pixel
        to = f.y + shift if complete else tile
        for k in range(Cp_out // LANES):
            more, more_line, more_pixel = spare, 0, 0
            if complete and f.extra:
                more, more_line, more_pixel = f.extra + shift + k * BYTES, line, pixel
            arguments = (
                z_at + k * block + q * BYTES, s.tiles * BYTES, to + k * BYTES, line, pixel,
                f.bias + (first + n) * f.bias_row + k * BYTES, more, more_line, more_pixel,
            )  # fmt: skip
            if s.M == 4:
                from_points_4(arguments)
            else:
                from_points_2(arguments)
        if not complete:
            for a in range(rows):
                for b in range(columns):
                    source = tile + (a * s.M + b) * pixel
                    out = shift + (a * s.OW + b) * s.C_out * 4
                    if f.extra:
                        add_floats(source, f.extra + out, f.y + out, s.C_out)
                    else:
                        copy_floats(source, f.y + out, s.C_out)


@serial
def result_to_points(s, g_at, d_at, start, count):
    """Transform the tiles of a chunk of gy, padded to complete tiles at g_at, into D."""
    (TH, TW), block, pixel = tile_counts(s), block_size(s), pairs(s.C_out) * LANES * 4
    line = TW * s.M * pixel
    for q in range(count):
        n, r = divmod(start + q, TH * TW)
        i, j = divmod(r, TW)
        at = g_at + (n * TH + i) * s.M * line + j * s.M * pixel
        for k in range(pairs(s.C_out)):
            arguments = (
                at + k * BYTES, d_at + k * block + q * BYTES, s.tiles * BYTES, line, pixel,
            )  # fmt: skip
            if s.M == 4:
                d_to_points_4(arguments)
            else:
                d_to_points_2(arguments)


@serial
def add_weight_gradient(s, v_at, d_at, du, count, zeros, first, last):
    """dU_p += V_p^T D_p at points first .. last - 1: du [points, C', C_out'].

    zeros: for the first chunk, the address of two vectors of zeros; 0: add to du.
    """
    point = s.tiles * BYTES
    (_, _, Cp), block, Cp_out = bordered_size(s), block_size(s), pairs(s.C_out) * LANES
    for p in range(first, last):
        for c in range(0, Cp, ROWS_T):
            a = v_at + c // LANES * block + p * point + c % LANES * 4
            for k in range(0, Cp_out, 2 * LANES):
                b, to = d_at + k // LANES * block + p * point, du + ((p * Cp + c) * Cp_out + k) * 4
                before, before_row = (zeros, 0) if zeros else (to, Cp_out * 4)
                transposed_product(
                    (
                        a, 0, BYTES, b, 0, BYTES, block, 1, count, before, before_row, to,
                        Cp_out * 4,
                    )
                )  # fmt: skip


@serial
def points_to_gradient(s, v_at, q_at, start, count):
    """dx += B dV B^T for the tiles of a chunk, in the bordered images at q_at."""
    (TH, TW), (PH, PW, Cp), block = tile_counts(s), bordered_size(s), block_size(s)
    for q in range(count):
        n, r = divmod(start + q, TH * TW)
        i, j = divmod(r, TW)
        at = q_at + ((n * PH + i * s.M) * PW + j * s.M) * Cp * 4
        for c in range(Cp // LANES):
            arguments = (
                v_at + c * block + q * BYTES, s.tiles * BYTES, at + c * BYTES, PW * Cp * 4, Cp * 4,
            )  # fmt: skip
            if s.M == 4:
                d_from_points_4(arguments)
            else:
                d_from_points_2(arguments)
