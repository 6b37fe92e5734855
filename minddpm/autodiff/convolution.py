"""Convolution, transposed convolution, and two fused operations that contain a convolution.

The functions check shapes and the kernels compute. The mathematics of each backward is beside
its kernel in kernels/reference/convolution.py and residual.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from minddpm import backend
from minddpm.autodiff.checks import as_parts, check_groups, check_shapes
from minddpm.autodiff.graph import Function, Tensor, as_tensor
from minddpm.backend import Array
from minddpm.kernels.shapes import Padding, transposed_shape

Layer = tuple[Sequence[Tensor], Tensor, Tensor]  # parts of x, w and b of a linear layer


def conv2d(x: Tensor, w: Tensor, b: Tensor, stride: int = 1, padding: int | Padding = 0) -> Tensor:
    """Convolve channels-last images (a cross-correlation, as in all deep-learning libraries).

    x [N, H, W, C_in], w [KH, KW, C_in, C_out], b [C_out] -> [N, OH, OW, C_out]
    padding: number of zeros on every side, or ((top, bottom), (left, right)).
    Raises ValueError if the shapes do not fit.
    """
    x, padding = as_tensor(x), _sides(padding)
    fits = x.ndim == w.ndim == 4 and x.shape[3] == w.shape[2]
    check_shapes("conv2d", fits, "x [N, H, W, C_in] and weight [KH, KW, C_in, C_out]", x, w)
    check_shapes("conv2d", b.shape == w.shape[3:], "bias [C_out] and weight [.., C_out]", b, w)
    size = [n + sum(pad) for n, pad in zip(x.shape[1:3], padding, strict=True)]
    window = w.shape[:2]
    if size[0] < window[0] or size[1] < window[1]:
        raise ValueError(f"conv2d: padded image {size} is smaller than the window {window}")
    return Conv2d(stride, padding)(x, w, b)


class Conv2d(Function):
    def __init__(self, stride: int, padding: Padding):
        self.stride, self.padding = stride, padding

    def forward(self, x: Array, w: Array, b: Array) -> Array:
        self.save(x, w)
        return backend.kernels.conv2d(x, w, b, self.stride, self.padding)

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        x, w = self.saved
        need_gx, partial = self.needs_grad(0), self.partial_gradient(0)
        return backend.kernels.conv2d_backward(
            gy, x, w, self.stride, self.padding, need_gx, partial
        )


def conv_transpose2d(
    x: Tensor, w: Tensor, b: Tensor, stride: int = 1, padding: int | Padding = 0
) -> Tensor:
    """Transposed convolution: maps the shape of conv2d's result to the shape of its input.

    x [N, H, W, C_in], w [KH, KW, C_out, C_in] (the weight of the conv2d from C_out to C_in),
    b [C_out] -> [N, OH, OW, C_out], OH = (H - 1) * stride - top - bottom + KH.
    padding: rows and columns cropped on every side, or ((top, bottom), (left, right)).
    Raises ValueError if the shapes do not fit.
    """
    name, x, padding = "conv_transpose2d", as_tensor(x), _sides(padding)
    fits = x.ndim == w.ndim == 4 and x.shape[3] == w.shape[3]
    check_shapes(name, fits, "x [N, H, W, C_in] and weight [KH, KW, C_out, C_in]", x, w)
    check_shapes(name, b.shape == w.shape[2:3], "bias [C_out] and weight [.., C_out, C_in]", b, w)
    size = transposed_shape(x.shape, w.shape, stride, padding)[1:3]
    if min(size) < 1:
        raise ValueError(f"{name}: padding {padding} leaves an image of size {size}")
    return ConvTranspose2d(stride, padding)(x, w, b)


class ConvTranspose2d(Function):
    def __init__(self, stride: int, padding: Padding):
        self.stride, self.padding = stride, padding

    def forward(self, x: Array, w: Array, b: Array) -> Array:
        self.save(x, w)
        return backend.kernels.conv_transpose2d(x, w, b, self.stride, self.padding)

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        x, w = self.saved
        need_gx, partial = self.needs_grad(0), self.partial_gradient(0)
        return backend.kernels.conv_transpose2d_backward(
            gy, x, w, self.stride, self.padding, need_gx, partial
        )


def _sides(padding: int | Padding) -> Padding:
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    (top, bottom), (left, right) = padding
    return (top, bottom), (left, right)


def upsample_conv2d(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """Double the height and width by repeating pixels, then convolve: -> [N, 2H, 2W, C_out].

    x [N, H, W, C_in], w [3, 3, C_in, C_out], b [C_out]. Raises ValueError if shapes do not fit.
    """
    _check_3x3("upsample_conv2d", (x,), w, b)
    return UpsampleConv2d()(x, w, b)


class UpsampleConv2d(Function):
    def forward(self, x: Array, w: Array, b: Array) -> Array:
        self.save(x, w)
        return backend.kernels.upsample_conv2d(x, w, b)

    def backward(self, gy: Array) -> tuple[Array, Array, Array]:
        return backend.kernels.upsample_conv2d_backward(gy, *self.saved)


def norm_silu_conv2d(
    x: Tensor | Sequence[Tensor], norm_weight: Tensor, norm_bias: Tensor, groups: int, eps: float,
    w: Tensor, b: Tensor, shift: Tensor | None = None, extra: Tensor | Layer | None = None,
) -> Tensor:  # fmt: skip
    """Compute half a residual block: conv2d(silu(group_norm(x))) + b + shift + extra.

    x [N, H, W, C_in], or its parts along the last axis; w [3, 3, C_in, C_out], b [C_out];
    shift [N, C_out]: the time embedding of each image; extra [N, H, W, C_out]: the residual path,
    or the arguments of the linear layer that computes it.
    No image between x and the result is saved. Raises ValueError if the shapes do not fit.
    """
    name, xs = "norm_silu_conv2d", as_parts("norm_silu_conv2d", x)
    C_in, C_out = _check_3x3(name, xs, w, b)
    check_groups(name, C_in, norm_weight, norm_bias, groups)
    N, H, W = xs[0].shape[:3]
    fits = shift is None or shift.shape == (N, C_out)
    check_shapes(name, fits, "shift [N, C_out], bias [C_out] and x", shift, b, *xs)
    layer_xs, layer_w, layer_b = (), None, None
    if isinstance(extra, tuple):
        layer_xs, layer_w, layer_b = as_parts(name, extra[0]), *extra[1:]
        C = sum(x.shape[-1] for x in layer_xs)
        fits = layer_w.shape == (C, C_out) and layer_b.shape == (C_out,)
        fits = fits and all(x.shape[:3] == (N, H, W) for x in layer_xs)
        expected = "a layer's weight [C_in, C_out], bias [C_out] and x [N, H, W, C_in]"
        check_shapes(name, fits, expected, layer_w, layer_b, *layer_xs)
        extra = None
    fits = extra is None or extra.shape == (N, H, W, C_out)
    check_shapes(name, fits, "extra [N, H, W, C_out], bias [C_out] and x", extra, b, *xs)
    function = NormSiLUConv2d(groups, eps, len(xs))
    return function(norm_weight, norm_bias, w, b, shift, extra, layer_w, layer_b, *xs, *layer_xs)


class NormSiLUConv2d(Function):
    """Inputs: norm weight and bias, w, b, shift, extra, weight and bias of a linear layer (four
    that may be None), then the parts of x, then those of the layer's x.

    The backward is conv2d_backward, then group_norm_silu_backward (kernels/reference/residual.py,
    norm.py), whose gweight is the gradient of the norm's weight; that of extra is gy itself. Both
    biases are added to the same image, so that they have the same gradient.
    """

    def __init__(self, groups: int, eps: float, parts: int):
        self.groups, self.eps, self.parts = groups, eps, parts

    def forward(
        self, norm_weight: Array, norm_bias: Array, w: Array, b: Array, shift: Array | None,
        extra: Array | None, layer_w: Array | None, layer_b: Array | None, *images: Array,
    ) -> Array:  # fmt: skip
        xs, layer_xs = images[: self.parts], images[self.parts :]
        if layer_xs:
            extra = layer_xs, layer_w, layer_b
        y, saved = backend.kernels.norm_silu_conv2d(
            xs, norm_weight, norm_bias, self.groups, self.eps, w, b, shift, extra
        )
        self.count = len(images)
        self.save(norm_weight, norm_bias, w, layer_w, *images, *saved)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        norm_weight, norm_bias, w, layer_w, *rest = self.saved
        images, saved = tuple(rest[: self.count]), tuple(rest[self.count :])
        partial = tuple(self.partial_gradient(8 + i) for i in range(self.count))
        xs, layer_xs, n = images[: self.parts], images[self.parts :], self.parts
        layer = (layer_xs, layer_w, partial[n:]) if layer_xs else ()
        gxs, *gradients, of_layer = backend.kernels.norm_silu_conv2d_backward(
            gy, xs, norm_weight, norm_bias, saved, self.groups, w, partial[:n], layer
        )
        layer_gxs, layer_gw = of_layer or ((), None)
        gb = gradients[3]
        return *gradients, gy, layer_gw, gb, *gxs, *layer_gxs


def _check_3x3(name: str, xs: Sequence[Tensor], w: Tensor, b: Tensor) -> tuple[int, int]:
    """Return C_in, summed over the parts of x, and C_out; ValueError if shapes do not fit."""
    C_in = sum(x.shape[-1] for x in xs)
    fits = xs[0].ndim == 4 and w.shape[:3] == (3, 3, C_in) and b.shape == w.shape[3:]
    expected = "x [N, H, W, C_in], weight [3, 3, C_in, C_out] and bias [C_out]"
    check_shapes(name, fits, expected, *xs, w, b)
    return C_in, w.shape[3]
