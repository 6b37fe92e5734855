"""Compositions around the UNet's 3x3 convolutions: half a residual block, and upsampling."""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

from minddpm.kernels.arrays import Array
from minddpm.kernels.reference.convolution import conv2d, conv2d_backward
from minddpm.kernels.reference.norm import normalised
from minddpm.kernels.reference.pointwise import upsample_nearest, upsample_nearest_backward
from minddpm.kernels.shapes import SAME, Parts, cut, joined

REFERENCE = sys.modules[__package__]
Layer = tuple[Parts, Array, Array]  # the parts of x, w and b of a linear layer


def upsample_conv2d(x: Array, w: Array, b: Array) -> Array:
    """Upsample x [N, H, W, C], then conv2d with w [3, 3, C, C_out] -> y [N, 2H, 2W, C_out]."""
    return conv2d(upsample_nearest(x), w, b, 1, SAME)


def upsample_conv2d_backward(gy: Array, x: Array, w: Array) -> tuple[Array, Array, Array]:
    """Return gx, gw, gb: conv2d_backward, then upsample_nearest_backward."""
    gx, gw, gb = conv2d_backward(gy, upsample_nearest(x), w, 1, SAME)
    return upsample_nearest_backward(gx), gw, gb


def norm_silu_conv2d(
    xs: Parts, norm_weight: Array, norm_bias: Array, groups: int, eps: float,
    w: Array, b: Array, shift: Array | None, extra: Array | Layer | None,
    *, kernels: ModuleType | None = None,
) -> tuple[Array, tuple[Array, ...]]:  # fmt: skip
    """y = conv2d(silu(group_norm(x))) + b + shift + extra: half a residual block.

    xs: parts of x [N, H, W, C]; w [3, 3, C, C_out]; b [C_out]; shift [N, C_out] or None (the time
    embedding); extra [N, H, W, C_out] or None (the residual path), or the arguments of the linear
    layer that computes it -> y, and `saved` for the backward of the same kernel set: mean, rstd
    [N, G]; other sets may save more.
    kernels: a fast set passes itself for shapes that its fused kernel does not support.
    """
    kernels = kernels or REFERENCE
    h, mean, rstd = kernels.group_norm_silu(joined(xs), norm_weight, norm_bias, groups, eps)
    y = kernels.conv2d(h, w, b, 1, SAME)
    if shift is not None:
        y += shift[:, None, None, :]
    if extra is not None:
        y += kernels.linear(*extra) if isinstance(extra, tuple) else extra
    return y, (mean, rstd)


def norm_silu_conv2d_backward(
    gy: Array, xs: Parts, norm_weight: Array, norm_bias: Array, saved: tuple[Array, ...],
    groups: int, w: Array, partial: Sequence[Array | None] = (), linear_layer: tuple[Any, ...] = (),
    *, kernels: ModuleType | None = None,
) -> tuple[Any, ...]:  # fmt: skip
    """Return gxs, gnorm_weight, gnorm_bias, gw, gb [C_out], gshift [N, C_out], and of the layer.

    The gradient of extra is gy itself. If a linear layer computed it, linear_layer has the parts
    of its x, its w, and the partial gradients of these parts; its gxs and gw come last, else ().
    h = silu(group_norm(x)) is not saved: it is computed again from x, mean and rstd.
    """
    kernels, x, (mean, rstd) = kernels or REFERENCE, joined(xs), saved
    h = kernels.silu(normalised(x, mean, rstd) * norm_weight + norm_bias)
    gh, gw, gb = kernels.conv2d_backward(gy, h, w, 1, SAME)
    gx, gnorm_weight, gnorm_bias = kernels.group_norm_silu_backward(
        gh, x, norm_weight, norm_bias, mean, rstd, groups
    )
    gxs = kernels.add_all(cut(gx, xs), partial)
    of_layer = kernels.linear_backward(gy, *linear_layer)[:2] if linear_layer else ()
    return gxs, gnorm_weight, gnorm_bias, gw, gb, gy.sum(axis=(1, 2)), of_layer
