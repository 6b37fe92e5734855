"""Rungs 4 and 5: Winograd convolution, F(2x2) and F(4x4): fewer multiplications.

A 3x3 convolution of a 6x6 piece of the picture gives a 4x4 piece of the result. Seen as
polynomials, the convolution is a product, and a product can be computed by evaluating both factors
at enough points, multiplying point by point, and interpolating (Toom and Cook 1963, Winograd 1980;
Lavin and Gray 2016 for networks). In one dimension, with the points 0, 1, -1, 2, -2, infinity:

    y = A^T [(G w) * (B^T x)]        x [6], w [3], y [4], 6 products instead of 12

and in two dimensions the same from both sides, 36 products instead of 144:

    Y = A^T [(G w G^T) * (B^T x B)] A

F(2x2) has the points 0, 1, -1, infinity: 16 products instead of 36. Summed over input channels,
each point is a small matrix product V_p [tiles, C] times U_p [C, K]. Every step is linear, so the
backward is the same steps transposed:

    D = A dY A^T;  dU_p += V_p^T D_p;  dw = G^T dU G;  dV_p = D_p U_p^T;  dx += B dV B^T

Gained: F(2x2) is 1.2 to 1.9 times as fast as rung 3, F(4x4) once more 1.1 to 1.5 times, beyond the
peak of the definition. The transforms are what is left of the time.

The price is rounding: the transforms add and subtract numbers that nearly cancel. Measured against
float64 the error of F(4x4) is 3e-6 to 3e-5 relative, about ten times that of the direct sum; that
of F(2x2) is below 1e-6.

The transformed picture is never whole in memory: a chunk of tiles goes through the transform, the
products and the transform back while they stay in the cache of their core. Each picture comes
into and leaves a bordered buffer there, and conv6_fused.py folds into these two copies what stands
before and after the convolution.
"""

import numpy as np

from minddpm.kernels.cpu.conv6_fused import load_picture, unload_gradient
from minddpm.kernels.cpu.gemm import (
    HALF,
    ROWS_T,
    panel_product,
    panel_product_half,
    transposed_product,
)
from minddpm.kernels.cpu.kept import from_weights
from minddpm.kernels.cpu.layer import (
    LAYER,
    SOURCES,
    Layer,
    Sources,
    block_size,
    bordered_size,
    floats_needed,
    tile_counts,
)
from minddpm.kernels.cpu.memory import (
    add_columns,
    add_floats,
    address,
    clear,
    copy_floats,
    copy_picture,
    pairs,
    serial,
    share,
    workspace,
)
from minddpm.kernels.cpu.norm import CHANNEL_ROWS, channels_at
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector import BYTES, ROWS, W
from minddpm.kernels.cpu.winograd_tiles import (
    d_from_points_2,
    d_from_points_4,
    d_to_points_2,
    d_to_points_4,
    from_points_2,
    from_points_4,
    to_points_2,
    to_points_4,
    transform_weights,
    weights_gradient,
)


@serial
def pictures_to_points(s, p_at, v_at, start, count):
    """Tiles start .. start + count - 1 of a group of bordered pictures, transformed into V."""
    (TH, TW), (PH, PW, Cp) = tile_counts(s), bordered_size(s)
    block, pixel = block_size(s), Cp * 4
    for q in range(count):
        n, r = divmod(start + q, TH * TW)
        i, j = divmod(r, TW)
        at = p_at + ((n * PH + i * s.M) * PW + j * s.M) * pixel
        for c in range(Cp // W):
            arguments = (
                at + c * BYTES, v_at + c * block + q * BYTES, s.tiles * BYTES, PW * pixel, pixel,
            )  # fmt: skip
            if s.M == 4:
                to_points_4(arguments)
            else:
                to_points_2(arguments)


@serial
def products(s, a_at, u, c_at, count, blocks_in, blocks_out):
    """At each point: [count, C] times [C, K]."""
    points, block = (s.M + 2) * (s.M + 2), block_size(s)
    for k in range(0, blocks_out, 2):
        for p in range(points):
            b = u + (k // 2 * points + p) * blocks_in * W * 2 * BYTES
            for m in range(0, count, ROWS):
                at = (p * s.tiles + m) * BYTES
                arguments = (a_at + at, b, c_at + k * block + at, blocks_in, block, block)
                if count - m <= HALF:
                    panel_product_half(arguments)
                else:
                    panel_product(arguments)


# --- forward -------------------------------------------------------------------------------------


@serial
def points_to_result(s, m_at, first, start, count, y, bias, bias_row, extra, spare):
    """Tiles of a chunk, transformed back, with bias and extra, to y [N, OH, OW, K].

    bias: [K'] for each image, bias_row bytes apart; extra: [N, OH, OW, K] or 0.
    spare: a vector of zeros, and one tile of all channels for those that y does not hold whole.
    """
    (TH, TW), block, Kp = tile_counts(s), block_size(s), pairs(s.K) * W
    tile = spare + BYTES
    for q in range(count):
        n, r = divmod(start + q, TH * TW)
        i, j = divmod(r, TW)
        rows, columns = min(s.M, s.OH - i * s.M), min(s.M, s.OW - j * s.M)
        whole = rows == s.M and columns == s.M and Kp == s.K
        shift = (((first + n) * s.OH + i * s.M) * s.OW + j * s.M) * s.K * 4
        pixel = s.K * 4 if whole else Kp * 4
        line = s.OW * pixel if whole else s.M * pixel
        to = y + shift if whole else tile
        for k in range(Kp // W):
            more, more_line, more_pixel = spare, 0, 0
            if whole and extra:
                more, more_line, more_pixel = extra + shift + k * BYTES, line, pixel
            arguments = (
                m_at + k * block + q * BYTES, s.tiles * BYTES, to + k * BYTES, line, pixel,
                bias + (first + n) * bias_row + k * BYTES, more, more_line, more_pixel,
            )  # fmt: skip
            if s.M == 4:
                from_points_4(arguments)
            else:
                from_points_2(arguments)
        if not whole:
            for a in range(rows):
                for b in range(columns):
                    source = tile + (a * s.M + b) * pixel
                    out = shift + (a * s.OW + b) * s.K * 4
                    if extra:
                        add_floats(source, extra + out, y + out, s.K)
                    else:
                        copy_floats(source, y + out, s.K)


@task
def _forward(t, threads, arguments):
    """space: the channels' numbers, spare, V and Y of one chunk, and the bordered pictures."""
    s = Layer(*integers(arguments, LAYER))
    source = Sources(*integers(arguments + 8 * LAYER, SOURCES))
    u, bias, bias_row, extra, y, space, row = integers(arguments + 8 * (LAYER + SOURCES), 7)
    space += t * row
    (TH, TW), (PH, PW, Cp), block = tile_counts(s), bordered_size(s), block_size(s)
    Kp = pairs(s.K) * W
    at = channels_at(space, Cp)
    spare = space + CHANNEL_ROWS * Cp * 4
    v_at = spare + BYTES + s.M * s.M * Kp * 4
    m_at = v_at + Cp // W * block
    p_at = m_at + Kp // W * block
    clear(spare, W)
    clear(p_at, s.images * PH * PW * Cp)
    # Each thread has its share of the pictures; of too few pictures, its share of their tiles.
    few = threads > s.N
    first_picture, last = (0, s.N) if few else (share(s.N, t, threads), share(s.N, t + 1, threads))
    for first in range(first_picture, last, s.images):
        images = min(s.images, last - first)
        for n in range(images):
            load_picture(s, first + n, source, at, p_at + n * PH * PW * Cp * 4, True)
        tiles = images * TH * TW
        from_tile, to_tile = (share(tiles, t, threads), share(tiles, t + 1, threads))
        if not few:
            from_tile, to_tile = 0, tiles
        for start in range(from_tile, to_tile, s.tiles):
            count = min(s.tiles, to_tile - start)
            pictures_to_points(s, p_at, v_at, start, count)
            products(s, v_at, u, m_at, count, Cp // W, Kp // W)
            points_to_result(s, m_at, first, start, count, y, bias, bias_row, extra, spare)


def forward(s: Layer, source: Sources, w, bias, extra=None):
    """y [N, OH, OW, K]; w [3, 3, C, K]; bias [K], or [N, K]; extra: an array like y to be added."""
    u = from_weights(transform_weights, w, s.M)
    rows = np.zeros((s.N if bias.ndim == 2 else 1, pairs(s.K) * W), np.float32)
    rows[:, : s.K] = bias
    y = np.empty((s.N, s.OH, s.OW, s.K), np.float32)
    space = workspace(floats_needed(s, backward=False))
    _forward(
        len(space), s, source, address(u), address(rows), rows.strides[0] if len(rows) > 1 else 0,
        address(extra), address(y), address(space), space.strides[0],
    )  # fmt: skip
    return y


# --- backward ------------------------------------------------------------------------------------


@serial
def result_to_points(s, g_at, d_at, start, count):
    """Tiles of a chunk of gy, which lies in whole tiles at g_at, transformed into D."""
    (TH, TW), block, pixel = tile_counts(s), block_size(s), pairs(s.K) * W * 4
    line = TW * s.M * pixel
    for q in range(count):
        n, r = divmod(start + q, TH * TW)
        i, j = divmod(r, TW)
        at = g_at + (n * TH + i) * s.M * line + j * s.M * pixel
        for k in range(pairs(s.K)):
            arguments = (
                at + k * BYTES, d_at + k * block + q * BYTES, s.tiles * BYTES, line, pixel,
            )  # fmt: skip
            if s.M == 4:
                d_to_points_4(arguments)
            else:
                d_to_points_2(arguments)


@serial
def add_weight_gradient(s, v_at, d_at, du, count, zeros):
    """dU_p += V_p^T D_p at each point: du [points, C', K'].

    zeros: two vectors of them, which the first chunk begins with instead of du; else 0.
    """
    point = s.tiles * BYTES
    (_, _, Cp), block, Kp = bordered_size(s), block_size(s), pairs(s.K) * W
    for p in range((s.M + 2) * (s.M + 2)):
        for c in range(0, Cp, ROWS_T):
            a = v_at + c // W * block + p * point + c % W * 4
            for k in range(0, Kp, 2 * W):
                b, to = d_at + k // W * block + p * point, du + ((p * Cp + c) * Kp + k) * 4
                before, before_row = (zeros, 0) if zeros else (to, Kp * 4)
                transposed_product(
                    (
                        a, 0, BYTES, b, 0, BYTES, block, 1, count, before, before_row, to, Kp * 4,
                    )
                )  # fmt: skip


@serial
def points_to_gradient(s, v_at, q_at, start, count):
    """dx += B dV B^T for the tiles of a chunk, in the bordered pictures at q_at."""
    (TH, TW), (PH, PW, Cp), block = tile_counts(s), bordered_size(s), block_size(s)
    for q in range(count):
        n, r = divmod(start + q, TH * TW)
        i, j = divmod(r, TW)
        at = q_at + ((n * PH + i * s.M) * PW + j * s.M) * Cp * 4
        for c in range(Cp // W):
            arguments = (
                v_at + c * block + q * BYTES, s.tiles * BYTES, at + c * BYTES, PW * Cp * 4, Cp * 4,
            )  # fmt: skip
            if s.M == 4:
                d_from_points_4(arguments)
            else:
                d_from_points_2(arguments)


@task
def _backward(t, threads, arguments):
    """gb [N, K']: sums of gy over the pixels of each image. gnorm [2, C']: gweight and gbias.

    space: the channels' numbers, spare, V and D of one chunk, the bordered pictures, their
    gradients, gy.
    """
    s = Layer(*integers(arguments, LAYER))
    source = Sources(*integers(arguments + 8 * LAYER, SOURCES))
    gy, ut, gx1, gx2, need_gx, du, du_row, gb, gnorm, norm_row, space, row = integers(
        arguments + 8 * (LAYER + SOURCES), 12
    )
    du, gnorm, space = du + t * du_row, gnorm + t * norm_row, space + t * row
    (TH, TW), (PH, PW, Cp), block = tile_counts(s), bordered_size(s), block_size(s)
    Kp, tiles = pairs(s.K) * W, TH * TW
    picture, result = PH * PW * Cp * 4, tiles * s.M * s.M * Kp * 4
    at = channels_at(space, Cp)
    spare = space + CHANNEL_ROWS * Cp * 4
    v_at = spare + 2 * BYTES
    d_at = v_at + Cp // W * block
    p_at = d_at + Kp // W * block
    q_at = p_at + s.images * picture
    g_at = q_at + s.images * picture
    clear(p_at, s.images * picture // 4)
    clear(g_at, s.images * result // 4)
    zeros = spare
    clear(spare, 2 * W)
    if threads > s.N:
        clear(du, (s.M + 2) * (s.M + 2) * Cp * Kp)  # a thread without pictures
        zeros = 0
    clear(gnorm, 2 * Cp)
    last = share(s.N, t + 1, threads)
    for first in range(share(s.N, t, threads), last, s.images):
        images = min(s.images, last - first)
        for n in range(images):
            load_picture(s, first + n, source, at, p_at + n * picture, False)
            to = g_at + n * result
            from_gy = gy + (first + n) * s.OH * s.OW * s.K * 4
            copy_picture(from_gy, s.OH, s.OW, s.K, to, 0, 0, TH * s.M, TW * s.M, Kp)
            sums = gb + (first + n) * Kp * 4
            clear(sums, Kp)
            add_columns(to, tiles * s.M * s.M, Kp, sums)
        clear(q_at, images * picture // 4)
        for start in range(0, images * tiles, s.tiles):
            count = min(s.tiles, images * tiles - start)
            pictures_to_points(s, p_at, v_at, start, count)
            result_to_points(s, g_at, d_at, start, count)
            add_weight_gradient(s, v_at, d_at, du, count, zeros)
            zeros = 0
            if need_gx:
                products(s, d_at, ut, v_at, count, Kp // W, Cp // W)  # dV = D U^T, in V's place
                points_to_gradient(s, v_at, q_at, start, count)
        if need_gx:
            for n in range(images):
                unload_gradient(
                    s, first + n, source, at, q_at + n * picture, gx1, gx2, gnorm, gnorm + Cp * 4
                )


def backward(s: Layer, source: Sources, gy, w, gxs):
    """gw, the sums of gy over each image's pixels [N, K], and gweight and gbias [2, C] of the norm.

    gxs: arrays like the parts of x, to be filled; empty if nobody needs them.
    """
    C, K = w.shape[2:]
    Cp, Kp = pairs(C) * W, pairs(K) * W
    ut = transform_weights(np.ascontiguousarray(w.swapaxes(2, 3)), s.M)
    gb = np.empty((s.N, Kp), np.float32)
    space = workspace(floats_needed(s, backward=True))
    du, gnorm = workspace((s.M + 2) ** 2 * Cp * Kp, slot=1), workspace(2 * Cp, slot=2)
    gx1, gx2 = (address(gx) for gx in (*gxs, None, None)[:2])
    _backward(
        len(space), s, source, address(gy), address(ut), gx1, gx2, len(gxs) > 0, address(du),
        du.strides[0], address(gb), address(gnorm), gnorm.strides[0], address(space),
        space.strides[0],
    )  # fmt: skip
    norm = gnorm[:, : 2 * Cp].sum(axis=0).reshape(2, Cp)[:, :C]
    return weights_gradient(du, s.M, C, K), gb[:, :K], norm
