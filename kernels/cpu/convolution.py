"""Convolution and transposed convolution: the shape decides how each is computed.

conv2d follows the table in ladder/choose.py, conv_transpose2d this one:

    images of one pixel       a matrix product: each pixel times the window (matrix_product.py)
    3x3 or 1x1, stride 1      a convolution with the rotated window, by the ladder
    4x4, stride 2, padding 1  one 3x3 convolution by Winograd, if that is faster (subpixel.py)
    anything else             rung 3's gradient with respect to x, plus a bias (transposed.py)
"""

import sys

import numpy as np

from minddpm.kernels import reference
from minddpm.kernels.cpu import matrix_product, subpixel, transposed
from minddpm.kernels.cpu.constant_weights import from_weights
from minddpm.kernels.cpu.ladder.choose import choose, is_product, is_wide_3x3
from minddpm.kernels.cpu.pointwise import add_to
from minddpm.kernels.float32 import float32_only
from minddpm.kernels.pixels import are_pixels, pixels_backward, window_columns
from minddpm.kernels.shapes import Padding, transposed_shape

CPU = sys.modules[__package__]  # this kernel set, fully imported when a function runs


@float32_only
def conv2d(x, w, b, stride: int, padding: Padding):
    return choose(x.shape, w.shape, stride, padding).forward(x, w, b, stride, padding)


@float32_only
def conv2d_backward(gy, x, w, stride: int, padding: Padding, need_gx: bool = True, partial=None):
    rung = choose(x.shape, w.shape, stride, padding)
    gx, gw, gb = rung.backward(gy, x, w, stride, padding, need_gx)
    return add_to(gx, partial), gw, gb


@float32_only
def conv_transpose2d(x, w, b, stride: int, padding: Padding):
    y_shape = transposed_shape(x.shape, w.shape, stride, padding)
    KH, KW = w.shape[:2]
    if are_pixels(x.shape, padding):
        columns, bias = from_weights(window_columns, w), from_weights(np.tile, b, KH * KW)
        return matrix_product.forward((x[:, 0, 0],), columns, bias).reshape(y_shape)
    if _is_of_the_ladder(y_shape, w.shape, stride, padding):
        ((top, bottom), (left, right)), u = padding, from_weights(_rotated, w)
        around = (KH - 1 - top, KH - 1 - bottom), (KW - 1 - left, KW - 1 - right)
        return choose(x.shape, u.shape, 1, around).forward(x, u, b, 1, around)
    if subpixel.pays(x.shape, w.shape, stride, padding):
        return subpixel.forward(x, w, b)
    return transposed.forward(x, w, b, stride, padding)


@float32_only
def conv_transpose2d_backward(
    gy, x, w, stride: int, padding: Padding, need_gx: bool = True, partial=None
):
    if are_pixels(x.shape, padding):
        return pixels_backward(CPU, gy, x, w, need_gx, partial)
    if _is_of_the_ladder(gy.shape, w.shape, stride, padding):
        return reference.conv_transpose2d_backward(
            gy, x, w, stride, padding, need_gx, partial, kernels=CPU
        )
    if subpixel.pays(x.shape, w.shape, stride, padding):
        gx, gw, gb = subpixel.backward(gy, x, w, need_gx)
    else:
        gx, gw, gb = transposed.backward(gy, x, w, stride, padding, need_gx)
    return add_to(gx, partial), gw, gb


def _is_of_the_ladder(y_shape, w_shape, stride: int, padding: Padding) -> bool:
    """Return whether the convolution from y to x has a rung with fewer operations than rung 3."""
    sizes = y_shape, w_shape, stride, padding
    return is_wide_3x3(*sizes) or is_product(*sizes)


def _rotated(w: np.ndarray) -> np.ndarray:
    """Return w rotated by 180 degrees, with its channels exchanged."""
    return np.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))
