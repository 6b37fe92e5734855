"""The combinations around the UNet's 3x3 convolutions: upsampling, and half a residual block."""

from minddpm.kernels.cuda import ladder, shortcut
from minddpm.kernels.cuda.convolution import convolved, gradients
from minddpm.kernels.cuda.ladder import Sizes
from minddpm.kernels.cuda.norm import normalise, normalise_backward
from minddpm.kernels.cuda.pointwise import add_all
from minddpm.kernels.float32 import float32_only
from minddpm.kernels.shapes import SAME, cut, joined


@float32_only
def upsample_conv2d(x, w, b):
    return convolved((x,), w, b, 1, SAME, up=1)


@float32_only
def upsample_conv2d_backward(gy, x, w):
    g = gradients(gy, (x,), w, 1, SAME, up=1)
    return g.gxs[0], g.w, g.bias


@float32_only
def norm_silu_conv2d(xs, norm_weight, norm_bias, groups: int, eps: float, w, b, shift, extra):
    if len(xs) > 2:
        xs = (joined(xs),)
    # On a GPU memory is less scarce than time: h is saved for the backward, not computed again.
    stored = ladder.stored_as(Sizes.of(xs, w.shape, 1, SAME))
    h, mean, rstd = normalise(xs, norm_weight, norm_bias, groups, eps, True, stored)
    if isinstance(extra, tuple):
        return shortcut.convolved(h, w, b, shift, *extra), (mean, rstd, h)
    return convolved((h,), w, b, 1, SAME, shift=shift, extra=extra), (mean, rstd, h)


@float32_only
def norm_silu_conv2d_backward(
    gy, xs, norm_weight, norm_bias, saved, groups: int, w, partial=(), linear_layer=()
):
    if len(xs) > 2:
        gxs, *others = norm_silu_conv2d_backward(
            gy, (joined(xs),), norm_weight, norm_bias, saved, groups, w, (), linear_layer
        )
        return add_all(cut(gxs[0], xs), partial), *others
    (mean, rstd, h), of_layer = saved, ()
    if linear_layer:
        g, of_layer = shortcut.gradients(gy, h, w, *linear_layer)
    else:
        g = gradients(gy, (h,), w, 1, SAME)
    gxs, gnorm_weight, gnorm_bias = normalise_backward(
        g.gxs[0], xs, norm_weight, norm_bias, mean, rstd, groups, True, partial
    )
    return gxs, gnorm_weight, gnorm_bias, g.w, g.bias, g.shift, of_layer
