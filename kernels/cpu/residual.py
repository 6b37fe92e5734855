"""Half a residual block, and upsampling with its convolution, each as one fused operation.

Rung 6 of the ladder (ladder/conv6_fused.py) computes both for 8 or more channels; with a norm the
channels must also be a multiple of PAIR. Other shapes use the separate operations.
"""

import sys

from minddpm.kernels import reference
from minddpm.kernels.cpu.arrange import summed
from minddpm.kernels.cpu.convolution import conv2d, conv2d_backward
from minddpm.kernels.cpu.ladder import conv4_winograd as winograd
from minddpm.kernels.cpu.ladder.choose import fused_tile, is_wide_3x3
from minddpm.kernels.cpu.ladder.layer import Sources, layer
from minddpm.kernels.cpu.linear import linear, linear_backward
from minddpm.kernels.cpu.memory import empty
from minddpm.kernels.cpu.pointwise import upsample_nearest, upsample_nearest_backward
from minddpm.kernels.cpu.vector.tile import PAIR
from minddpm.kernels.float32 import float32_only
from minddpm.kernels.shapes import SAME

CPU = sys.modules[__package__]  # this kernel set, fully imported when a function runs


@float32_only
def upsample_conv2d(x, w, b):
    if not is_wide_3x3(x.shape, w.shape, 1, SAME):
        return conv2d(upsample_nearest(x), w, b, 1, SAME)
    s = layer((x,), w.shape, SAME, _upsampled_tile(x, w), up=2)
    return winograd.forward(s, Sources.of((x,)), w, b)


@float32_only
def upsample_conv2d_backward(gy, x, w):
    if not is_wide_3x3(x.shape, w.shape, 1, SAME):
        gx, gw, gb = conv2d_backward(gy, upsample_nearest(x), w, 1, SAME)
        return upsample_nearest_backward(gx), gw, gb
    s = layer((x,), w.shape, SAME, _upsampled_tile(x, w), up=2, backward=True)
    gx = empty(x.shape)
    gw, gb, _ = winograd.backward(s, Sources.of((x,)), gy, w, (gx,))
    return gx, gw, summed(gb)


def _upsampled_tile(x, w) -> int:
    N, H, W, C = x.shape
    return fused_tile((N, 2 * H, 2 * W, C), w.shape)


def _can_fuse(xs, w) -> bool:
    return (
        is_wide_3x3(xs[0].shape, w.shape, 1, SAME)
        and all(x.shape[-1] % PAIR == 0 for x in xs)
        and len(xs) <= 2
    )


@float32_only
def norm_silu_conv2d(xs, norm_weight, norm_bias, groups: int, eps: float, w, b, shift, extra):
    if not _can_fuse(xs, w):
        return reference.norm_silu_conv2d(
            xs, norm_weight, norm_bias, groups, eps, w, b, shift, extra, kernels=CPU
        )
    extra = linear(*extra) if isinstance(extra, tuple) else extra
    s = layer(xs, w.shape, SAME, fused_tile(xs[0].shape, w.shape), groups=groups, eps=eps)
    mean, rstd = (empty((s.N, groups)) for _ in range(2))
    source = Sources.of(xs, norm_weight, norm_bias, mean, rstd)
    return winograd.forward(s, source, w, b, shift, extra), (mean, rstd)


@float32_only
def norm_silu_conv2d_backward(
    gy, xs, norm_weight, norm_bias, saved, groups: int, w, partial=(), linear_layer=()
):
    if not _can_fuse(xs, w):
        return reference.norm_silu_conv2d_backward(
            gy, xs, norm_weight, norm_bias, saved, groups, w, partial, linear_layer, kernels=CPU
        )
    M = fused_tile(xs[0].shape, w.shape)
    s = layer(xs, w.shape, SAME, M, groups=groups, backward=True)
    source = Sources.of(xs, norm_weight, norm_bias, *saved)
    gxs = tuple(empty(x.shape) for x in xs)
    gw, gshift, (gnorm_weight, gnorm_bias) = winograd.backward(s, source, gy, w, gxs, partial)
    of_layer = linear_backward(gy, *linear_layer)[:2] if linear_layer else ()
    return gxs, gnorm_weight, gnorm_bias, gw, summed(gshift), gshift, of_layer
