"""Transposed convolution by Winograd: 4x4, stride 2, padding 1 as one 3x3 convolution.

The four pixels (2i + p, 2j + q) of y, p and q = 0 or 1, depend on the same 3x3 pixels of x: tap
(t, tw) of that window is multiplied by w[3 + p - 2t, 3 + q - 2tw], or by zero if w has no such tap.
So a 3x3 convolution with four times as many channels, which Winograd supports, computes the four
pixels, and its channels are rearranged into pixels (the sub-pixel convolution, Shi et al. 2016):

    z = conv2d(x, u, 1, SAME) [N, H, W, 2, 2, C_out],  y[2i + p, 2j + q] = z[i, j, p, q]

For the four pixels the 3x3 window takes 36 multiplications, 20 of them by zero; the 4x4 window
takes 16. F(4x4) takes only 9, so it is faster if its tiles lie mostly within the image.
"""

from itertools import product

import numpy as np

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.constant_weights import from_weights
from minddpm.kernels.cpu.ladder.choose import choose, has_few_tiles, is_wide_3x3
from minddpm.kernels.cpu.ladder.conv3_implicit import FEW
from minddpm.kernels.cpu.memory import address, array_at, empty, items
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.shapes import SAME

TAPS = ((0, 0, 3), (1, 0, 1), (1, 1, 2), (2, 1, 0))  # (t, p, kh)


def pays(x_shape, w_shape, stride, padding) -> bool:
    """Return whether this is the fastest way for these shapes."""
    (_, H, W, C), (KH, KW, C_out, _) = x_shape, w_shape
    if (KH, KW, stride, padding) != (4, 4, 2, SAME) or C_out <= FEW:
        return False
    small = x_shape, (3, 3, C, 4 * C_out), 1, SAME
    covered = 16 * -(-H // 4) * -(-W // 4)  # pixels that the tiles compute, some outside the image
    return is_wide_3x3(*small) and not has_few_tiles(*small) and covered <= 1.2 * H * W


def weights(w: np.ndarray) -> np.ndarray:
    """Return u [3, 3, C_in, 2 2 C_out] of w [4, 4, C_out, C_in]."""
    C_out, C = w.shape[2:]
    u = np.zeros((3, 3, C, 2, 2, C_out), np.float32)
    for (t, p, kh), (tw, q, kw) in product(TAPS, TAPS):
        u[t, tw, :, p, q] = w[kh, kw].T
    return u.reshape(3, 3, C, 4 * C_out)


def forward(x, w, b):
    """Return y of kernels.reference.conv_transpose2d."""
    N, H, W, _ = x.shape
    u, bias = from_weights(weights, w), from_weights(np.tile, b, 4)
    z = choose(x.shape, u.shape, 1, SAME).forward(x, u, bias, 1, SAME)
    y = empty((N, 2 * H, 2 * W, len(b)))
    _depth_to_space(threads.pieces(N), address(z), address(y), *y.shape)
    return y


def backward(gy, x, w, need_gx):
    """Return gx, gw, gb of kernels.reference.conv_transpose2d_backward."""
    (N, H, W, C), C_out = x.shape, gy.shape[3]
    gz = empty((N, H, W, 4 * C_out))
    _space_to_depth(threads.pieces(N), address(gy), address(gz), *gy.shape)
    u = weights(w)
    gx, gu, gb = choose(x.shape, u.shape, 1, SAME).backward(gz, x, u, 1, SAME, need_gx)
    gu, gw = gu.reshape(3, 3, C, 2, 2, C_out), empty(w.shape)
    for (t, p, kh), (tw, q, kw) in product(TAPS, TAPS):
        gw[kh, kw] = gu[t, tw, :, p, q].T
    return gx, gw, gb.reshape(4, C_out).sum(axis=0)


@task
def _depth_to_space(piece, pieces, worker, at):
    """z [N, H, W, 2 2 C] -> y [N, 2H, 2W, C]: the channels of a pixel become 2 x 2 pixels."""
    z_at, y_at, N, H2, W2, C = integers(at, 6)
    z, y = array_at(z_at, (N, H2 // 2, W2 // 2, 4 * C)), array_at(y_at, (N, H2, W2, C))
    for r in items(N * H2, piece, pieces):
        n, i = divmod(r, H2)
        for j in range(W2):
            first = (i % 2 * 2 + j % 2) * C
            for c in range(C):
                y[n, i, j, c] = z[n, i // 2, j // 2, first + c]


@task
def _space_to_depth(piece, pieces, worker, at):
    """Invert _depth_to_space: y [N, 2H, 2W, C] -> z [N, H, W, 2 2 C]."""
    y_at, z_at, N, H2, W2, C = integers(at, 6)
    y, z = array_at(y_at, (N, H2, W2, C)), array_at(z_at, (N, H2 // 2, W2 // 2, 4 * C))
    for r in items(N * H2, piece, pieces):
        n, i = divmod(r, H2)
        for j in range(W2):
            first = (i % 2 * 2 + j % 2) * C
            for c in range(C):
                z[n, i // 2, j // 2, first + c] = y[n, i, j, c]
