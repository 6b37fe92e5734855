"""The functions of neural-network layers: shapes are checked here, the work is in the kernels.

The mathematics of each backward stands beside its kernel in kernels/reference.py.
"""

from __future__ import annotations

from collections.abc import Sequence

from minddpm import backend
from minddpm.autodiff.graph import Function, Tensor, as_tensor
from minddpm.backend import Array
from minddpm.kernels.shapes import transposed_shape


class Conv2d(Function):
    def __init__(self, stride: int, padding: tuple[tuple[int, int], tuple[int, int]]):
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


class ConvTranspose2d(Function):
    def __init__(self, stride: int, padding: tuple[tuple[int, int], tuple[int, int]]):
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


class Linear(Function):
    """Inputs: w, b, extra (or None), then the parts of x."""

    def forward(self, w: Array, b: Array, extra: Array | None, *xs: Array) -> Array:
        self.save(w, *xs)
        return backend.kernels.linear(xs, w, b, extra)

    def backward(self, gy: Array) -> tuple[Array, ...]:
        w, *xs = self.saved
        partial = tuple(self.partial_gradient(3 + i) for i in range(len(xs)))
        gxs, gw, gb = backend.kernels.linear_backward(gy, tuple(xs), w, partial)
        return gw, gb, gy, *gxs


class Linears(Function):
    """Inputs: x, all w, all b."""

    def forward(self, x: Array, *wbs: Array) -> tuple[Array, ...]:
        half = len(wbs) // 2
        self.save(x, *wbs[:half])
        return backend.kernels.linears(x, wbs[:half], wbs[half:])

    def backward(self, *gys: Array) -> tuple[Array, ...]:
        x, *ws = self.saved
        partial = self.partial_gradient(0)
        gx, gws, gbs = backend.kernels.linears_backward(gys, x, tuple(ws), partial)
        return gx, *gws, *gbs


class UpsampleConv2d(Function):
    def forward(self, x: Array, w: Array, b: Array) -> Array:
        self.save(x, w)
        return backend.kernels.upsample_conv2d(x, w, b)

    def backward(self, gy: Array) -> tuple[Array, Array, Array]:
        return backend.kernels.upsample_conv2d_backward(gy, *self.saved)


class NormSiLUConv2d(Function):
    """Inputs: norm weight and bias, w, b, shift (or None), extra (or None), then the parts of x."""

    def __init__(self, groups: int, eps: float):
        self.groups, self.eps = groups, eps

    def forward(
        self,
        norm_weight: Array,
        norm_bias: Array,
        w: Array,
        b: Array,
        shift: Array | None,
        extra: Array | None,
        *xs: Array,
    ) -> Array:
        y, saved = backend.kernels.norm_silu_conv2d(
            xs, norm_weight, norm_bias, self.groups, self.eps, w, b, shift, extra
        )
        self.parts = len(xs)
        self.save(norm_weight, norm_bias, w, *xs, *saved)
        return y

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        norm_weight, norm_bias, w, *more = self.saved
        xs, saved = tuple(more[: self.parts]), tuple(more[self.parts :])
        partial = tuple(self.partial_gradient(6 + i) for i in range(len(xs)))
        gxs, *gradients = backend.kernels.norm_silu_conv2d_backward(
            gy, xs, norm_weight, norm_bias, saved, self.groups, w, partial
        )
        return *gradients, gy, *gxs


class GroupNorm(Function):
    def __init__(self, groups: int, eps: float):
        self.groups, self.eps = groups, eps

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        y, mean, rstd = backend.kernels.group_norm(x, weight, bias, self.groups, self.eps)
        self.save(x, weight, mean, rstd)
        return y

    def backward(self, gy: Array) -> tuple[Array, Array, Array]:
        x, weight, mean, rstd = self.saved
        partial = self.partial_gradient(0)
        return backend.kernels.group_norm_backward(gy, x, weight, mean, rstd, self.groups, partial)


class GroupNormSiLU(Function):
    def __init__(self, groups: int, eps: float):
        self.groups, self.eps = groups, eps

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        y, mean, rstd = backend.kernels.group_norm_silu(x, weight, bias, self.groups, self.eps)
        self.save(x, weight, bias, mean, rstd)
        return y

    def backward(self, gy: Array) -> tuple[Array, Array, Array]:
        x, weight, bias, mean, rstd = self.saved
        return backend.kernels.group_norm_silu_backward(
            gy, x, weight, bias, mean, rstd, self.groups
        )


class Attention(Function):
    def __init__(self, heads: int):
        self.heads = heads

    def forward(self, q: Array, k: Array, v: Array) -> Array:
        self.save(q, k, v)
        return backend.kernels.attention(q, k, v, self.heads)

    def backward(self, gy: Array) -> tuple[Array, Array, Array]:
        return backend.kernels.attention_backward(gy, *self.saved, self.heads)


class Dropout(Function):
    def __init__(self, p: float, stream: tuple[int, int, int]):
        self.p, self.stream = p, stream

    def forward(self, x: Array) -> Array:
        return backend.kernels.dropout(x, self.p, *self.stream)

    def backward(self, gy: Array) -> tuple[Array]:
        return (backend.kernels.dropout(gy, self.p, *self.stream),)


class UpsampleNearest(Function):
    def forward(self, x: Array) -> Array:
        return backend.kernels.upsample_nearest(x)

    def backward(self, gy: Array) -> tuple[Array]:
        return (backend.kernels.upsample_nearest_backward(gy),)


def conv2d(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    stride: int = 1,
    padding: int | tuple[tuple[int, int], tuple[int, int]] = 0,
) -> Tensor:
    """Convolution (cross-correlation, as everywhere in deep learning) of channels-last images.

    x [N, H, W, C_in], w [KH, KW, C_in, C_out], b [C_out] -> [N, OH, OW, C_out]
    padding: zeros on every side, or ((top, bottom), (left, right)).
    Raises ValueError if the shapes do not fit.
    """
    x, padding = as_tensor(x), _sides(padding)
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[2]:
        raise ValueError(
            f"conv2d: x of shape {x.shape} should be [N, H, W, {w.shape[2]}] "
            f"for a weight [KH, KW, C_in, C_out] of shape {w.shape}"
        )
    if b.shape != w.shape[3:]:
        raise ValueError(f"conv2d: bias of shape {b.shape} for {w.shape[3]} output channels")
    size = [x.shape[1 + i] + sum(padding[i]) for i in (0, 1)]
    if size[0] < w.shape[0] or size[1] < w.shape[1]:
        raise ValueError(f"conv2d: padded image {size} is smaller than the window {w.shape[:2]}")
    return Conv2d(stride, padding)(x, w, b)


def conv_transpose2d(
    x: Tensor,
    w: Tensor,
    b: Tensor,
    stride: int = 1,
    padding: int | tuple[tuple[int, int], tuple[int, int]] = 0,
) -> Tensor:
    """Transposed convolution: makes of [N, OH, OW, C_out] what conv2d makes [N, H, W, C_in] of.

    x [N, H, W, C_in], w [KH, KW, C_out, C_in], as conv2d from C_out to C_in channels has it,
    b [C_out] -> [N, OH, OW, C_out], OH = (H - 1) * stride - top - bottom + KH.
    padding: lines cut off every side, or ((top, bottom), (left, right)).
    Raises ValueError if the shapes do not fit.
    """
    x, padding = as_tensor(x), _sides(padding)
    if x.ndim != 4 or w.ndim != 4 or x.shape[3] != w.shape[3]:
        raise ValueError(
            f"conv_transpose2d: x of shape {x.shape} should be [N, H, W, {w.shape[-1]}] "
            f"for a weight [KH, KW, C_out, C_in] of shape {w.shape}"
        )
    if b.shape != w.shape[2:3]:
        raise ValueError(
            f"conv_transpose2d: bias of shape {b.shape} for {w.shape[2]} output channels"
        )
    size = transposed_shape(x.shape, w.shape, stride, padding)[1:3]
    if min(size) < 1:
        raise ValueError(f"conv_transpose2d: padding {padding} leaves an image of size {size}")
    return ConvTranspose2d(stride, padding)(x, w, b)


def _sides(
    padding: int | tuple[tuple[int, int], tuple[int, int]],
) -> tuple[tuple[int, int], tuple[int, int]]:
    """((top, bottom), (left, right))."""
    if isinstance(padding, int):
        return (padding, padding), (padding, padding)
    (top, bottom), (left, right) = padding
    return (top, bottom), (left, right)


def linear(
    x: Tensor | Sequence[Tensor], w: Tensor, b: Tensor, extra: Tensor | None = None
) -> Tensor:
    """x w + b + extra: x [..., C_in], w [C_in, C_out], b [C_out], extra and result [..., C_out].

    x may be several tensors that stand side by side along their last axis.
    Raises ValueError if the shapes do not fit.
    """
    xs = _parts("linear", x)
    if extra is not None and extra.shape != (*xs[0].shape[:-1], *b.shape):
        raise ValueError(f"linear: extra {extra.shape} does not fit x {_shapes(xs)} and {b.shape}")
    if sum(x.shape[-1] for x in xs) != w.shape[0] or b.shape != w.shape[1:]:
        raise ValueError(
            f"linear: x {_shapes(xs)}, weight {w.shape} and bias {b.shape} do not fit: "
            "they should be [..., C_in], [C_in, C_out], [C_out]"
        )
    return Linear()(w, b, extra, *xs)


def linears(x: Tensor, ws: Sequence[Tensor], bs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Several linear layers of one x [..., C_in]: as many results.

    Raises ValueError if the shapes do not fit.
    """
    x = as_tensor(x)
    for w, b in zip(ws, bs, strict=True):
        if w.shape != (x.shape[-1], *b.shape):
            raise ValueError(f"linears: x {x.shape}, weight {w.shape} and bias {b.shape}")
    return Linears()(x, *ws, *bs)


def upsample_conv2d(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
    """conv2d of the picture with every pixel doubled: [N, H, W, C] -> [N, 2H, 2W, K].

    w [3, 3, C, K], b [K]. Raises ValueError if the shapes do not fit.
    """
    _check_3x3("upsample_conv2d", (x,), w, b)
    return UpsampleConv2d()(x, w, b)


def norm_silu_conv2d(
    x: Tensor | Sequence[Tensor],
    norm_weight: Tensor,
    norm_bias: Tensor,
    groups: int,
    eps: float,
    w: Tensor,
    b: Tensor,
    shift: Tensor | None = None,
    extra: Tensor | None = None,
) -> Tensor:
    """conv2d(silu(group_norm(x))) + b + shift + extra as one function: half a residual block.

    x [N, H, W, C], or several such tensors that stand side by side; w [3, 3, C, K], b [K];
    shift [N, K]: for each image, the time embedding; extra [N, H, W, K]: the residual path.
    Nothing between x and the result is kept. Raises ValueError if the shapes do not fit.
    """
    xs = _parts("norm_silu_conv2d", x)
    C = _check_3x3("norm_silu_conv2d", xs, w, b)
    _check_groups("norm_silu_conv2d", C, norm_weight, norm_bias, groups)
    N, K = xs[0].shape[0], w.shape[3]
    if shift is not None and shift.shape != (N, K):
        raise ValueError(f"norm_silu_conv2d: shift {shift.shape} should be {(N, K)}")
    if extra is not None and extra.shape != (*xs[0].shape[:3], K):
        raise ValueError(f"norm_silu_conv2d: extra {extra.shape} does not fit {_shapes(xs)}")
    return NormSiLUConv2d(groups, eps)(norm_weight, norm_bias, w, b, shift, extra, *xs)


def _parts(name: str, x: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The parts of x as a tuple, which have to agree in all but the last axis."""
    xs = tuple(x) if isinstance(x, (tuple, list)) else (as_tensor(x),)
    if any(part.shape[:-1] != xs[0].shape[:-1] for part in xs):
        raise ValueError(f"{name}: parts {_shapes(xs)} differ in more than the last axis")
    return xs


def _shapes(xs: Sequence[Tensor]) -> str:
    return " | ".join(str(x.shape) for x in xs)


def _check_3x3(name: str, xs: Sequence[Tensor], w: Tensor, b: Tensor) -> int:
    """C, the channels of all parts together."""
    C = sum(x.shape[-1] for x in xs)
    if xs[0].ndim != 4 or w.shape[:3] != (3, 3, C) or b.shape != w.shape[3:]:
        raise ValueError(
            f"{name}: x {_shapes(xs)}, weight {w.shape} and bias {b.shape} should be "
            "[N, H, W, C], [3, 3, C, K], [K]"
        )
    return C


def _check_groups(name: str, C: int, weight: Tensor, bias: Tensor, groups: int) -> None:
    if weight.shape != (C,) or bias.shape != (C,):
        raise ValueError(f"{name}: weight {weight.shape} and bias {bias.shape} for {C} channels")
    if C % groups:
        raise ValueError(f"{name}: {C} channels cannot be split into {groups} equal groups")


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Group normalisation: x [N, ..., C], weight and bias [C] -> the same shape as x."""
    _check_groups("group_norm", x.shape[-1], weight, bias, groups)
    return GroupNorm(groups, eps)(x, weight, bias)


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """silu(group_norm(x)) as one function: the value between the two is not kept."""
    _check_groups("group_norm_silu", x.shape[-1], weight, bias, groups)
    return GroupNormSiLU(groups, eps)(x, weight, bias)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head softmax attention over positions: q, k, v and the result [N, L, heads * D]."""
    if q.ndim != 3 or q.shape != k.shape or q.shape != v.shape or q.shape[2] % heads:
        raise ValueError(
            f"attention: q {q.shape}, k {k.shape}, v {v.shape} should all be [N, L, {heads} * D]"
        )
    return Attention(heads)(q, k, v)


def dropout(x: Tensor, p: float, stream: tuple[int, int, int]) -> Tensor:
    """x with each value zeroed with probability p and the others times 1 / (1 - p).

    stream: (seed, purpose, step) of the random numbers. Raises ValueError unless 0 <= p < 1.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p = {p} should be at least 0 and below 1")
    return Dropout(p, stream)(x)


def upsample_nearest(x: Tensor) -> Tensor:
    """Twice the height and width, each pixel copied: [N, H, W, C] -> [N, 2H, 2W, C]."""
    return UpsampleNearest()(x)
