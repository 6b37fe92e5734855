"""Transposed convolution by Winograd: 4x4, stride 2, padding 1 as one 3x3 convolution.

Of y, the four pixels (2i + p, 2j + q), p and q = 0 or 1, see the same 3x3 pixels of x: tap (t, tw)
of that window meets w[3 + p - 2t, 3 + q - 2tw], and nothing where w has no such line. So they are
four times as many channels of a convolution that Winograd can do, which then become pixels (the
sub-pixel convolution of Shi et al. 2016):

    z = conv2d(x, u, 1, SAME) [N, H, W, 2, 2, C_out],  y[2i + p, 2j + q] = z[i, j, p, q]

A 3x3 window is 36 multiplications for the four pixels where 4x4 has 16, all others are with zero.
F(4x4) does them in 9, so it pays where its tiles lie within the picture.
"""

from itertools import product

import numpy as np

from minddpm.kernels.cpu import pointwise
from minddpm.kernels.cpu.constant_weights import from_weights
from minddpm.kernels.cpu.ladder.choose import choose, has_few_tiles, is_wide_3x3
from minddpm.kernels.cpu.ladder.conv3_implicit import FEW
from minddpm.kernels.shapes import SAME

TAPS = ((0, 0, 3), (1, 0, 1), (1, 1, 2), (2, 1, 0))  # (t, p, kh)


def pays(x_shape, w_shape, stride, padding) -> bool:
    """Whether this is the way to compute it."""
    (_, H, WX, C), (KH, KW, K, _) = x_shape, w_shape
    if (KH, KW, stride, padding) != (4, 4, 2, SAME) or K <= FEW:
        return False
    small = x_shape, (3, 3, C, 4 * K), 1, SAME
    covered = 16 * -(-H // 4) * -(-WX // 4)  # pixels, of which the tiles compute some for nothing
    return is_wide_3x3(*small) and not has_few_tiles(*small) and covered <= 1.2 * H * WX


def weights(w: np.ndarray) -> np.ndarray:
    """u [3, 3, C_in, 2 2 C_out] of w [4, 4, C_out, C_in]."""
    K, C = w.shape[2:]
    u = np.zeros((3, 3, C, 2, 2, K), np.float32)
    for (t, p, kh), (tw, q, kw) in product(TAPS, TAPS):
        u[t, tw, :, p, q] = w[kh, kw].T
    return u.reshape(3, 3, C, 4 * K)


def forward(x, w, b):
    """y of kernels.reference.conv_transpose2d."""
    N, H, WX, _ = x.shape
    u, bias = from_weights(weights, w), from_weights(np.tile, b, 4)
    z = choose(x.shape, u.shape, 1, SAME).forward(x, u, bias, 1, SAME)
    y = np.empty((N, 2 * H, 2 * WX, len(b)), np.float32)
    pointwise.depth_to_space(z, y)
    return y


def backward(gy, x, w, need_gx):
    """gx, gw, gb of kernels.reference.conv_transpose2d_backward."""
    (N, H, WX, C), K = x.shape, gy.shape[3]
    gz = np.empty((N, H, WX, 4 * K), np.float32)
    pointwise.space_to_depth(gy, gz)
    u = weights(w)
    gx, gu, gb = choose(x.shape, u.shape, 1, SAME).backward(gz, x, u, 1, SAME, need_gx)
    gu, gw = gu.reshape(3, 3, C, 2, 2, K), np.empty_like(w)
    for (t, p, kh), (tw, q, kw) in product(TAPS, TAPS):
        gw[kh, kw] = gu[t, tw, :, p, q].T
    return gx, gw, gb.reshape(4, K).sum(axis=0)
