"""Rungs 4 and 5: Winograd convolution, F(2x2) and F(4x4): fewer multiplications.

A 3x3 convolution of a 6x6 tile of the image gives a 4x4 tile of the result. A convolution is a
product of polynomials, and a product can be computed by evaluating both factors at enough points,
multiplying point by point, and interpolating (Toom and Cook 1963, Winograd 1980; Lavin and Gray
2016 for networks). In one dimension, with the points 0, 1, -1, 2, -2, infinity:

    y = A^T [(G w) * (B^T x)]        x [6], w [3], y [4], 6 products instead of 12

In two dimensions the transforms apply from both sides, 36 products instead of 144:

    Y = A^T [(G w G^T) * (B^T x B)] A

F(2x2) has the points 0, 1, -1, infinity: 16 products instead of 36. With V = B^T x B, U = G w G^T
and the sum over input channels, each point p is a small matrix product Z_p = V_p [tiles, C] times
U_p [C, C_out]. Every step is linear, so the backward consists of the same steps transposed:

    D = A dY A^T;  dU_p += V_p^T D_p;  dw = G^T dU G;  dV_p = D_p U_p^T;  dx += B dV B^T

Measured: F(2x2) is 1.2 to 1.9 times as fast as rung 3, and F(4x4) mostly 1.1 to 1.7 times as fast
as F(2x2): faster than the definition at the machine's peak (table in kernels/README.md).

The price is rounding: the transforms add and subtract numbers that nearly cancel. Measured against
float64 the relative error of F(4x4) is 3e-6 to 3e-5, about ten times that of the direct sum; that
of F(2x2) is below 1e-6.

The complete transformed image is never stored: a chunk of tiles goes through the transform, the
products and the inverse transform while it stays in the cache of its core. Each image is copied
into a bordered buffer in that cache, and each result out of it. conv6_fused.py fuses the operations
before and after the convolution into these two copies.
"""

import numpy as np

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.arrange import padded_bias, summed
from minddpm.kernels.cpu.constant_weights import from_weights
from minddpm.kernels.cpu.ladder import winograd_together
from minddpm.kernels.cpu.ladder.conv6_fused import (
    fetch_result,
    load_gradient,
    load_image,
    unload_gradient,
)
from minddpm.kernels.cpu.ladder.layer import (
    Backward,
    Forward,
    Layer,
    Sources,
    backward_at,
    block_size,
    bordered_size,
    forward_at,
    tile_counts,
)
from minddpm.kernels.cpu.ladder.winograd_steps import (
    add_weight_gradient,
    images_to_points,
    points_to_gradient,
    points_to_result,
    products,
    result_to_points,
)
from minddpm.kernels.cpu.ladder.winograd_weights import (
    transform_transposed_weights,
    transform_weights,
    weights_gradient,
)
from minddpm.kernels.cpu.memory import (
    address,
    clear,
    empty,
    pairs,
    share,
    workspace,
)
from minddpm.kernels.cpu.norm_steps import CHANNEL_ROWS, channels_at
from minddpm.kernels.cpu.pointwise import add_rows
from minddpm.kernels.cpu.task import task
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES

# --- forward -------------------------------------------------------------------------------------


@task
def _forward(piece, pieces, worker, arguments):
    """`space` holds the per-channel values, spare, V and Z of one chunk, the bordered images."""
    s, source, f = forward_at(arguments)
    (TH, TW), (PH, PW, Cp), block = tile_counts(s), bordered_size(s), block_size(s)
    Cp_out, points = pairs(s.C_out) * LANES, (s.M + 2) * (s.M + 2)
    space = f.space + worker * f.space_row
    at = channels_at(space, Cp)
    spare = space + CHANNEL_ROWS * Cp * 4
    v_at = spare + BYTES + s.M * s.M * Cp_out * 4
    z_at = v_at + Cp // LANES * block
    p_at = z_at + Cp_out // LANES * block
    clear(spare, LANES)
    clear(p_at, s.images * PH * PW * Cp)
    # The pieces divide the images; if there are too few images, the tiles of each.
    few = pieces > s.N
    first_image, last = share(s.N, piece, pieces), share(s.N, piece + 1, pieces)
    if few:
        first_image, last = 0, s.N
    for first in range(first_image, last, s.images):
        images = min(s.images, last - first)
        for n in range(images):
            load_image(s, first + n, source, at, p_at + n * PH * PW * Cp * 4, True)
            fetch_result(s, f, first + n, spare + BYTES)
        tiles = images * TH * TW
        from_tile, to_tile = share(tiles, piece, pieces), share(tiles, piece + 1, pieces)
        if not few:
            from_tile, to_tile = 0, tiles
        for start in range(from_tile, to_tile, s.tiles):
            count = min(s.tiles, to_tile - start)
            images_to_points(s, p_at, v_at, start, count)
            products(
                s,
                v_at,
                f.u,
                z_at,
                count,
                Cp // LANES,
                Cp_out // LANES,
                0,
                points * Cp_out // (2 * LANES),
            )
            points_to_result(s, z_at, first, start, count, f, spare)


def _forward_floats(s: Layer) -> int:
    """Return the working memory of _forward for one thread, in floats."""
    (PH, PW, Cp), Cp_out = bordered_size(s), pairs(s.C_out) * LANES
    chunk = (Cp + Cp_out) // LANES * (block_size(s) // 4)
    return CHANNEL_ROWS * Cp + LANES + s.M * s.M * Cp_out + chunk + s.images * PH * PW * Cp


def forward(s: Layer, source: Sources, w, b, shift=None, extra=None):
    """Return y [N, OH, OW, C_out].

    w [3, 3, C, C_out], b [C_out] or None; shift [N, C_out], added to b, and extra, an array like y,
    added to y, may be None.
    """
    u = from_weights(transform_weights, w, s.M)
    Cp_out = pairs(s.C_out) * LANES
    bias = from_weights(padded_bias, b, s.C_out) if shift is None else add_rows(shift, b, Cp_out)
    y = empty((s.N, s.OH, s.OW, s.C_out))
    space = workspace((winograd_together.forward_floats if s.together else _forward_floats)(s))
    f = Forward(
        address(u), address(bias), 4 * Cp_out if bias.ndim == 2 else 0, address(extra), address(y),
        address(space), space.strides[0],
    )  # fmt: skip
    if s.together:
        winograd_together.forward(s, source, f)
    else:
        _forward(max(threads.pieces(s.N), threads.count()), *s, *source, *f)
    return y


# --- backward ------------------------------------------------------------------------------------


@task
def _backward(piece, pieces, worker, arguments):
    """`space` holds the per-channel values, spare, V and D of one chunk, the bordered images,
    their gradients, gy.
    """
    s, source, b = backward_at(arguments)
    (TH, TW), (PH, PW, Cp), block = tile_counts(s), bordered_size(s), block_size(s)
    Cp_out, tiles, points = pairs(s.C_out) * LANES, TH * TW, (s.M + 2) * (s.M + 2)
    image, result = PH * PW * Cp * 4, tiles * s.M * s.M * Cp_out * 4
    du, gnorm = b.du + piece * b.du_row, b.gnorm + piece * b.gnorm_row
    space = b.space + worker * b.space_row
    at = channels_at(space, Cp)
    spare = space + CHANNEL_ROWS * Cp * 4
    v_at = spare + 2 * BYTES
    d_at = v_at + Cp // LANES * block
    p_at = d_at + Cp_out // LANES * block
    q_at = p_at + s.images * image
    g_at = q_at + s.images * image
    clear(p_at, s.images * image // 4)
    clear(g_at, s.images * result // 4)
    clear(spare, 2 * LANES)
    clear(gnorm, 2 * Cp)
    zeros, from_gy, last = spare, g_at, share(s.N, piece + 1, pieces)
    for first in range(share(s.N, piece, pieces), last, s.images):
        images = min(s.images, last - first)
        for n in range(images):
            load_image(s, first + n, source, at, p_at + n * image, False)
            # gy of the group's first image: the others follow it, wherever they lie.
            from_gy = load_gradient(s, first + n, b, g_at + n * result, True) - n * result
        clear(q_at, images * image // 4)
        for start in range(0, images * tiles, s.tiles):
            count = min(s.tiles, images * tiles - start)
            images_to_points(s, p_at, v_at, start, count)
            result_to_points(s, from_gy, d_at, start, count)
            add_weight_gradient(s, v_at, d_at, du, count, zeros, 0, points)
            zeros = 0
            if b.need_gx:  # dV = D U^T overwrites V
                products(
                    s,
                    d_at,
                    b.ut,
                    v_at,
                    count,
                    Cp_out // LANES,
                    Cp // LANES,
                    0,
                    points * Cp // (2 * LANES),
                )
                points_to_gradient(s, v_at, q_at, start, count)
        if b.need_gx:
            for n in range(images):
                unload_gradient(s, first + n, source, at, q_at + n * image, b, gnorm)


def _backward_floats(s: Layer) -> int:
    """Return the working memory of _backward for one thread, in floats."""
    (TH, TW), (PH, PW, Cp), Cp_out = tile_counts(s), bordered_size(s), pairs(s.C_out) * LANES
    chunk = (Cp + Cp_out) // LANES * (block_size(s) // 4)
    images = s.images * (2 * PH * PW * Cp + TH * TW * s.M * s.M * Cp_out)
    return CHANNEL_ROWS * Cp + 2 * LANES + chunk + images


def backward(s: Layer, source: Sources, gy, w, gxs, partial=()):
    """Return gw, the sums of gy over each image's pixels, and the gradients of the norm.

    The sums are [N, C_out]; the norm's gradients are gweight and gbias, [2, C]. gxs: arrays like
    the parts of x, to be filled; empty if gx is not needed. partial: gradients to be added to them,
    each may be None; only with a norm.
    """
    C, C_out = w.shape[2:]
    if not s.N:
        return np.zeros_like(w), np.zeros((0, C_out), np.float32), np.zeros((2, C), np.float32)
    Cp, Cp_out = pairs(C) * LANES, pairs(C_out) * LANES
    ut = transform_transposed_weights(w, s.M)
    gb = empty((s.N, Cp_out))
    space = workspace((winograd_together.backward_floats if s.together else _backward_floats)(s))
    parts = threads.parts(s.N)
    du = workspace((s.M + 2) ** 2 * Cp * Cp_out, 1, rows=1 if s.together else parts)
    gnorm = workspace(2 * Cp, 2, parts)
    gx1, gx2, more1, more2 = (address(x) for xs in (gxs, partial) for x in (*xs, None, None)[:2])
    b = Backward(
        address(gy), address(ut), gx1, gx2, more1, more2, len(gxs) > 0, address(du),
        du.strides[0], address(gb), address(gnorm), gnorm.strides[0], address(space),
        space.strides[0],
    )  # fmt: skip
    if s.together:
        winograd_together.backward(s, source, b)
    else:
        _backward(parts, *s, *source, *b)
    norm = summed(gnorm[:, : 2 * Cp]).reshape(2, Cp)[:, :C]
    return weights_gradient(du, s.M, C, C_out), gb[:, :C_out], norm
