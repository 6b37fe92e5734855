"""Winograd convolution F(4x4, 3x3): 36 multiplications where the definition has 144.

A 3x3 convolution of a 6x6 piece of the picture gives a 4x4 piece of the result. Seen as
polynomials, the convolution is a product, and a product can be computed by evaluating both factors
at enough points, multiplying point by point, and interpolating (Toom and Cook 1963, Winograd 1980;
Lavin and Gray 2016 for networks). In one dimension, with the points 0, 1, -1, 2, -2, infinity:

    y = A^T [(G w) * (B^T x)]        x [6], w [3], y [4], 6 products instead of 12

and in two dimensions the same from both sides, 36 products instead of 144:

    Y = A^T [(G w G^T) * (B^T x B)] A

Summed over input channels, each of the 36 points is a small matrix product V_p [tiles, C] times
U_p [C, K]. Every step is linear, so the backward is the same steps transposed:

    D = A dY A^T;  dU_p += V_p^T D_p;  dw = G^T dU G;  dV_p = D_p U_p^T;  dx += B dV B^T

The price is rounding: the transforms add and subtract numbers that nearly cancel. Measured against
float64 the error is 3e-6 to 3e-5 relative, about ten times that of the direct sum.

The transformed picture is never whole in memory: TILES tiles at a time go through the transform,
the 36 products and the transform back while they stay in the cache of their core.
"""

import numpy as np
from numba import njit, prange

from minddpm.kernels.cpu.gemm import ROWS_T, product_full, product_transposed
from minddpm.kernels.cpu.memory import copy_in, copy_out, pairs, workspace, zero
from minddpm.kernels.cpu.vector import BYTES, ROWS, W
from minddpm.kernels.cpu.winograd_tiles import (
    BLOCK,
    POINT,
    POINTS,
    TILES,
    M,
    from_points,
    gradient_from_points,
    gradient_to_points,
    to_points,
    transform_weights,
    weights_gradient,
)


def images_per_group(tiles: int, image_floats: int) -> int:
    """How many images to take together, so that few rows of the last product are empty."""
    most = max(1, min(8, 100_000 // image_floats))
    return min(range(1, most + 1), key=lambda n: -(-n * tiles // ROWS) * ROWS / n)


@njit(parallel=True, nogil=True, cache=True)
def _forward(x, u, bias, y, top, left, group, space):
    """x [N, H, W, C], u of transform_weights, bias [K'] -> y [N, OH, OW, K].

    space [threads, floats]: for each thread V and M of one chunk, the bordered images of a group,
    and their results. All names ending in _at are addresses.
    """
    N, OH, OW, K = y.shape
    CB, KB = u.shape[2] // W, 2 * u.shape[0]
    TH, TW = (OH + M - 1) // M, (OW + M - 1) // M
    tiles = TH * TW
    PH, PW = TH * M + 2, TW * M + 2
    Cp, Kp = CB * W, KB * W
    threads = space.shape[0]
    for t in prange(threads):
        v_at = space[t].ctypes.data
        m_at = v_at + CB * BLOCK
        p_at = m_at + KB * BLOCK
        r_at = p_at + group * PH * PW * Cp * 4
        # Whole tiles of whole blocks go straight to y, others by way of a padded picture.
        straight = OH == TH * M and OW == TW * M and Kp == K
        row = TW * M * Kp * 4
        image = TH * M * row
        zero((p_at, group * PH * PW * Cp // W))
        last = N * (t + 1) // threads
        for first in range(N * t // threads, last, group):
            images = min(group, last - first)
            to_at = y.ctypes.data + first * image if straight else r_at
            for n in range(images):
                copy_in(x, first + n, p_at + n * PH * PW * Cp * 4, top, left, PH, PW, Cp)
            for start in range(0, images * tiles, TILES):
                count = min(TILES, images * tiles - start)
                _pictures_to_points(p_at, v_at, start, count, TH, TW, CB)
                _products(v_at, u, m_at, count, CB, KB)
                for q in range(count):
                    n, r = divmod(start + q, tiles)
                    i, j = divmod(r, TW)
                    at = to_at + n * image + i * M * row + j * M * Kp * 4
                    for k in range(KB):
                        b_at = bias.ctypes.data + k * BYTES
                        from_points(
                            (m_at + k * BLOCK + q * BYTES, at + k * BYTES, b_at, row, Kp * 4)
                        )
            if not straight:
                for n in range(images):
                    copy_out(r_at + n * image, y, first + n, 0, 0, TW * M, Kp)


@njit(inline="always")
def _pictures_to_points(p_at, v_at, start, count, TH, TW, CB):
    """Tiles start .. start + count - 1 of a group of bordered pictures, transformed into V."""
    PH, PW, pixel = TH * M + 2, TW * M + 2, CB * BYTES
    for q in range(count):
        n, r = divmod(start + q, TH * TW)
        i, j = divmod(r, TW)
        at = p_at + ((n * PH + i * M) * PW + j * M) * pixel
        for c in range(CB):
            to_points((at + c * BYTES, v_at + c * BLOCK + q * BYTES, PW * pixel, pixel))


@njit(inline="always")
def _products(a_at, u, c_at, count, blocks_in, blocks_out):
    """At each of the 36 points: [count, C] times [C, K]."""
    for k in range(0, blocks_out, 2):
        for p in range(POINTS):
            b = u.ctypes.data + ((k // 2) * POINTS + p) * blocks_in * W * 2 * BYTES
            for m in range(0, count, ROWS):
                at = p * POINT + m * BYTES
                product_full((a_at + at, b, c_at + k * BLOCK + at, blocks_in, BLOCK, BLOCK))


@njit(parallel=True, nogil=True, cache=True)
def _backward(gy, x, ut, gx, du, need_gx, top, left, group, space):
    """gy [N, OH, OW, K], x [N, H, W, C], ut transposed weights -> gx, du [threads, 36, C', K'].

    space [threads, floats]: for each thread V, D, the bordered images of a group, their gradients,
    and the padded gy.
    """
    N, OH, OW = gy.shape[:3]
    CB, KB = du.shape[2] // W, du.shape[3] // W
    TH, TW = (OH + M - 1) // M, (OW + M - 1) // M
    tiles = TH * TW
    PH, PW = TH * M + 2, TW * M + 2
    Cp, Kp = CB * W, KB * W
    threads = space.shape[0]
    for t in prange(threads):
        v_at = space[t].ctypes.data
        d_at = v_at + CB * BLOCK
        p_at = d_at + KB * BLOCK
        picture = PH * PW * Cp * 4
        q_at = p_at + group * picture
        g_at = q_at + group * picture
        row = TW * M * Kp * 4
        image = TH * M * row
        zero((p_at, group * PH * PW * Cp // W))
        zero((g_at, group * TH * M * TW * M * Kp // W))
        du_at = du[t].ctypes.data
        zero((du_at, POINTS * Cp * Kp // W))
        last = N * (t + 1) // threads
        for first in range(N * t // threads, last, group):
            images = min(group, last - first)
            for n in range(images):
                copy_in(x, first + n, p_at + n * picture, top, left, PH, PW, Cp)
                copy_in(gy, first + n, g_at + n * image, 0, 0, TH * M, TW * M, Kp)
            zero((q_at, group * PH * PW * Cp // W))
            for start in range(0, images * tiles, TILES):
                count = min(TILES, images * tiles - start)
                _pictures_to_points(p_at, v_at, start, count, TH, TW, CB)
                for q in range(count):
                    n, r = divmod(start + q, tiles)
                    i, j = divmod(r, TW)
                    at = g_at + n * image + i * M * row + j * M * Kp * 4
                    for k in range(KB):
                        gradient_to_points(
                            (at + k * BYTES, d_at + k * BLOCK + q * BYTES, row, Kp * 4)
                        )
                # dU_p += V_p^T D_p
                for p in range(POINTS):
                    for c in range(CB):
                        for lane in range(0, W, ROWS_T):
                            a = v_at + c * BLOCK + p * POINT + lane * 4
                            to = du_at + (p * Cp + c * W + lane) * Kp * 4
                            for k in range(0, KB, 2):
                                b = d_at + k * BLOCK + p * POINT
                                c_at = to + k * BYTES
                                product_transposed((a, b, c_at, count, BYTES, BYTES, BLOCK, Kp * 4))
                if need_gx:
                    _products(d_at, ut, v_at, count, KB, CB)  # dV_p = D_p U_p^T, in V's place
                    for q in range(count):
                        n, r = divmod(start + q, tiles)
                        i, j = divmod(r, TW)
                        at = q_at + n * picture + (i * M * PW + j * M) * Cp * 4
                        for c in range(CB):
                            gradient_from_points(
                                (v_at + c * BLOCK + q * BYTES, at + c * BYTES, PW * Cp * 4, Cp * 4)
                            )
            if need_gx:
                for n in range(images):
                    copy_out(q_at + n * picture, gx, first + n, top, left, PW, Cp)


def conv2d(x, w, b, padding):
    """y of kernels.reference.conv2d for a 3x3 window of stride 1."""
    (top, bottom), (left, right) = padding
    N, H, W_, C = x.shape
    K = w.shape[3]
    CB, KB = pairs(C), pairs(K)
    y = np.empty((N, H + top + bottom - 2, W_ + left + right - 2, K), np.float32)
    u = transform_weights(w, CB, KB)
    bias = np.zeros(KB * W, np.float32)
    if b is not None:
        bias[:K] = b
    group, floats = _space(y.shape, CB, KB, backward=False)
    _forward(x, u, bias, y, top, left, group, workspace(floats))
    return y


def conv2d_backward(gy, x, w, padding, need_gx=True):
    """gx, gw of kernels.reference.conv2d_backward for a 3x3 window of stride 1."""
    (top, _), (left, _) = padding
    C, K = w.shape[2:]
    CB, KB = pairs(C), pairs(K)
    gx = np.empty(x.shape if need_gx else (0, 0, 0, 0), np.float32)
    ut = transform_weights(np.ascontiguousarray(w.swapaxes(2, 3)), KB, CB)
    group, floats = _space(gy.shape, CB, KB, backward=True)
    du = workspace(POINTS * CB * W * KB * W, 1).reshape(-1, POINTS, CB * W, KB * W)
    _backward(gy, x, ut, gx, du, need_gx, top, left, group, workspace(floats))
    return (gx if need_gx else None), weights_gradient(du, C, K)


def _space(y_shape, CB, KB, backward):
    """Images in a group, and the floats that one thread needs."""
    TH, TW = -(-y_shape[1] // M), -(-y_shape[2] // M)
    picture = (TH * M + 2) * (TW * M + 2) * CB * W
    result = TH * M * TW * M * KB * W
    group = images_per_group(TH * TW, picture)
    pictures = 2 * picture if backward else picture
    return group, (CB + KB) * BLOCK // 4 + group * (pictures + result)
