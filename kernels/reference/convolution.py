"""Convolution and transposed convolution, forward and backward.

Images [N, H, W, C]; weights [KH, KW, C_in, C_out], those of a transposed convolution
[KH, KW, C_out, C_in].
"""

import sys
from types import ModuleType

from minddpm.kernels.arrays import Array, array_module
from minddpm.kernels.reference.pointwise import add_to
from minddpm.kernels.shapes import Padding, transposed_shape

REFERENCE = sys.modules[__package__]


def _patches(x: Array, KH: int, KW: int, stride: int, padding: Padding) -> Array:
    """Return the window under each output pixel, [N, OH, OW, KH, KW, C]: a view, not a copy."""
    xp = array_module(x)
    x = xp.pad(x, ((0, 0), *padding, (0, 0)))
    windows = xp.lib.stride_tricks.sliding_window_view(x, (KH, KW), axis=(1, 2))
    return windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)


def conv2d(x: Array, w: Array, b: Array | None, stride: int, padding: Padding) -> Array:
    """y[n,i,j,:] = sum over kh, kw of x[n, i*stride+kh, j*stride+kw, :] @ w[kh, kw] + b.

    x [N, H, W, C_in] (zero-padded first), w [KH, KW, C_in, C_out], b [C_out] or None
    -> y [N, OH, OW, C_out] with OH = (H + top + bottom - KH) // stride + 1.
    """
    KH, KW, C_in, C_out = w.shape
    patches = _patches(x, KH, KW, stride, padding)
    N, OH, OW = patches.shape[:3]
    y = patches.reshape(N * OH * OW, KH * KW * C_in) @ w.reshape(KH * KW * C_in, C_out)
    if b is not None:
        y += b
    return y.reshape(N, OH, OW, C_out)


def conv2d_backward(
    gy: Array, x: Array, w: Array, stride: int, padding: Padding, need_gx: bool = True,
    partial: Array | None = None,
) -> tuple[Array | None, Array, Array]:  # fmt: skip
    """gy [N, OH, OW, C_out] -> gx [N, H, W, C_in] (None unless need_gx), gw, gb [C_out].

    y is one product Y = P W of the patches, so gW = P^T gY and gb = 1^T gY.
    """
    KH, KW, C_in, C_out = w.shape
    N, OH, OW = gy.shape[:3]
    gy2 = gy.reshape(N * OH * OW, C_out)
    patches = _patches(x, KH, KW, stride, padding).reshape(N * OH * OW, KH * KW * C_in)
    gw = (patches.T @ gy2).reshape(w.shape)
    gb = gy2.sum(axis=0)
    if not need_gx:
        return None, gw, gb
    gx = _conv2d_backward_data(gy, x.shape, w, stride, padding)
    return add_to(gx, partial), gw, gb


def _conv2d_backward_data(
    gy: Array, x_shape: tuple[int, ...], w: Array, stride: int, padding: Padding
) -> Array:
    """gx[n,a,b,:] = sum over kh, kw of gy[n,i,j,:] @ w[kh,kw]^T with a = i*stride+kh, b = j*stride+kw.

    With gy spread out by the stride (zeros between), i*stride = a - kh: again a convolution, with the
    kernel rotated by 180 degrees and transposed. Its result has the padded size; the padding is cut.
    """  # noqa: E501
    xp = array_module(gy)
    KH, KW, _, C_out = w.shape
    N, OH, OW = gy.shape[:3]
    (top, bottom), (left, right) = padding
    H, W = x_shape[1:3]
    spread = xp.zeros((N, H + top + bottom - KH + 1, W + left + right - KW + 1, C_out), gy.dtype)
    spread[:, : stride * OH : stride, : stride * OW : stride] = gy
    rotated = xp.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))
    gx = conv2d(spread, rotated, None, 1, ((KH - 1, KH - 1), (KW - 1, KW - 1)))
    return xp.ascontiguousarray(gx[:, top : top + H, left : left + W])


def conv_transpose2d(x: Array, w: Array, b: Array, stride: int, padding: Padding) -> Array:
    """y[n,i*stride+kh,j*stride+kw,:] = sum of x[n,i,j,:] @ w[kh,kw]^T over all i, j, kh, kw, + b.

    The transpose of conv2d with the same w: each pixel of x adds a window to y, and the padding is
    cut off (Dumoulin and Visin 2016, chapter 4; the generator of Radford et al. 2016).
    x [N, H, W, C_in], w [KH, KW, C_out, C_in] (that of a conv2d from C_out to C_in channels),
    b [C_out] -> y [N, OH, OW, C_out] with OH = (H - 1) * stride - top - bottom + KH.
    """
    shape = transposed_shape(x.shape, w.shape, stride, padding)
    y = _conv2d_backward_data(x, shape, w, stride, padding)
    y += b
    return y


def conv_transpose2d_backward(
    gy: Array, x: Array, w: Array, stride: int, padding: Padding, need_gx: bool = True,
    partial: Array | None = None, *, kernels: ModuleType | None = None,
) -> tuple[Array | None, Array, Array]:  # fmt: skip
    """Return gx (None unless need_gx), gw, gb [C_out].

    If conv2d is y = A x, this is y = A^T x, so gx = A gy: conv2d of gy. <gy, A^T x> = <A gy, x>,
    so gw is conv2d's, with gy as its image and x as the gradient of its result.
    """
    kernels = kernels or REFERENCE
    _, gw, _ = kernels.conv2d_backward(x, gy, w, stride, padding, need_gx=False)
    gb = gy.sum(axis=(0, 1, 2))
    if not need_gx:
        return None, gw, gb
    return kernels.add_to(kernels.conv2d(gy, w, None, stride, padding), partial), gw, gb
