"""Convolutions, plain and transposed: each by the rung that fits it (ladder, winograd, ...)."""

import sys

from minddpm.kernels.cuda import column, fused, ladder, winograd
from minddpm.kernels.cuda.ladder import Sizes
from minddpm.kernels.cuda.launch import cupy, empty
from minddpm.kernels.cuda.linear import linear
from minddpm.kernels.float32 import float32_only
from minddpm.kernels.pixels import are_pixels, pixels_backward, window_columns
from minddpm.kernels.shapes import Padding, transposed_shape

CUDA = sys.modules[__package__]  # this kernel set, fully imported when a function runs


def rung_module(s: Sizes, xs, up=0):
    """Return the module with the forward and backward to use."""
    return next((rung for rung in (winograd, fused, column) if rung.pays(s, xs, up)), ladder)


def convolved(xs, w, b, stride, padding, up=0, shift=None, extra=None):
    """Return y = conv(x) + b + shift + extra (ladder.forward)."""
    s = Sizes.of(xs, w.shape, stride, padding, up)
    (y,) = empty((s.N, s.OH, s.OW, s.C_out))
    rung_module(s, xs, up).forward(s, xs, w, b, y, up=up, shift=shift, extra=extra)
    return y


def gradients(gy, xs, w, stride, padding, up=0, need_gx=True, partial=()):
    """Return the ladder.Gradients of convolved()."""
    s = Sizes.of(xs, w.shape, stride, padding, up)
    return rung_module(s, xs, up).backward(s, gy, xs, w, up=up, need_gx=need_gx, partial=partial)


@float32_only
def conv2d(x, w, b, stride: int, padding: Padding):
    return convolved((x,), w, b, stride, padding)


@float32_only
def conv2d_backward(gy, x, w, stride: int, padding: Padding, need_gx: bool = True, partial=None):
    g = gradients(gy, (x,), w, stride, padding, need_gx=need_gx, partial=(partial,))
    return g.gxs[0] if need_gx else None, g.w, g.bias


@float32_only
def conv_transpose2d(x, w, b, stride: int, padding: Padding):
    shape = transposed_shape(x.shape, w.shape, stride, padding)
    if are_pixels(x.shape, padding):
        bias = cupy().tile(b, shape[1] * shape[2])
        return linear((x[:, 0, 0],), window_columns(w), bias).reshape(shape)
    (y,) = empty(shape)
    ladder.transposed(Sizes.of((y,), w.shape, stride, padding), x, w, b, y)
    return y


@float32_only
def conv_transpose2d_backward(
    gy, x, w, stride: int, padding: Padding, need_gx: bool = True, partial=None
):
    if are_pixels(x.shape, padding):
        return pixels_backward(CUDA, gy, x, w, need_gx, partial)
    gx = convolved((gy,), w, None, stride, padding, extra=partial) if need_gx else None
    gw = gradients(x, (gy,), w, stride, padding, need_gx=False).w
    return gx, gw, ladder.sum_pixels(gy)[1]
