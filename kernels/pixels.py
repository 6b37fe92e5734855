"""Transposed convolution of images of one pixel: a linear layer, as at the start of a generator.

Shared by the fast kernel sets; the reference needs no special case.
"""

from collections.abc import Sequence
from types import ModuleType

from minddpm.kernels.arrays import Array, array_module
from minddpm.kernels.shapes import Padding


def are_pixels(x_shape: Sequence[int], padding: Padding) -> bool:
    """Return whether conv_transpose2d is a matrix product: images of one pixel, no padding."""
    return tuple(x_shape[1:3]) == (1, 1) and not any(map(any, padding))


def window_columns(w: Array) -> Array:
    """Return w [KH, KW, C_out, C_in] as the matrix [C_in, KH KW C_out] of that linear layer."""
    return array_module(w).ascontiguousarray(w.reshape(-1, w.shape[3]).T)


def pixels_backward(
    kernels: ModuleType, gy: Array, x: Array, w: Array, need_gx: bool, partial: Array | None
) -> tuple[Array | None, Array, Array]:
    """Return gx, gw, gb of conv_transpose2d for images of one pixel, by linear_backward."""
    N, (KH, KW, C_out, _) = len(x), w.shape
    gy = gy.reshape(N, KH * KW * C_out)
    (gx,), gw, gb = kernels.linear_backward(gy, (x[:, 0, 0],), window_columns(w))
    gw = array_module(w).ascontiguousarray(gw.T).reshape(w.shape)
    gx = kernels.add_to(gx.reshape(x.shape), partial) if need_gx else None
    return gx, gw, gb.reshape(KH * KW, C_out).sum(axis=0)
