"""The functions of layers other than convolutions: linear, norms, attention, dropout, upsampling.

The functions check shapes and the kernels compute. The mathematics of each backward is beside
its kernel in kernels/reference/ (linear.py, norm.py, attention.py, pointwise.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from minddpm import backend
from minddpm.autodiff.checks import as_parts, check_groups, check_shapes
from minddpm.autodiff.graph import Function, Tensor, as_tensor
from minddpm.backend import Array


def linear(
    x: Tensor | Sequence[Tensor], w: Tensor, b: Tensor, extra: Tensor | None = None
) -> Tensor:
    """Compute x w + b + extra: x [..., C_in], w [C_in, C_out], b [C_out], extra [..., C_out].

    x may also be given as a sequence of parts, split along the last axis.
    Raises ValueError if the shapes do not fit.
    """
    xs = as_parts("linear", x)
    fits = sum(x.shape[-1] for x in xs) == w.shape[0] and b.shape == w.shape[1:]
    expected = "x [..., C_in], weight [C_in, C_out] and bias [C_out]"
    check_shapes("linear", fits, expected, *xs, w, b)
    fits = extra is None or extra.shape == (*xs[0].shape[:-1], *b.shape)
    check_shapes("linear", fits, "extra [..., C_out], bias [C_out] and x", extra, b, *xs)
    return Linear()(w, b, extra, *xs)


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


def linears(x: Tensor, ws: Sequence[Tensor], bs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Apply several linear layers to one x [..., C_in]; ValueError if the shapes do not fit."""
    x = as_tensor(x)
    for w, b in zip(ws, bs, strict=True):
        fits = w.shape == (x.shape[-1], *b.shape)
        check_shapes("linears", fits, "x [.., C_in], weight [C_in, C_out], bias [C_out]", x, w, b)
    return Linears()(x, *ws, *bs)


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


def group_norm(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Normalise each group of channels: x [N, ..., C], weight and bias [C] -> the shape of x."""
    check_groups("group_norm", x.shape[-1], weight, bias, groups)
    return GroupNorm(groups, eps)(x, weight, bias)


class GroupNorm(Function):
    """The UNet's residual blocks use NormSiLUConv2d (convolution.py), which contains this norm.

    The formula of the backward is in kernels/reference/norm.py.
    """

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


def group_norm_silu(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
    """Compute silu(group_norm(x)) in one operation, which does not save group_norm(x)."""
    check_groups("group_norm_silu", x.shape[-1], weight, bias, groups)
    return GroupNormSiLU(groups, eps)(x, weight, bias)


class GroupNormSiLU(Function):
    """Residual blocks use NormSiLUConv2d (convolution.py); the backward is in reference/norm.py."""

    def __init__(self, groups: int, eps: float):
        self.groups, self.eps = groups, eps

    def forward(self, x: Array, weight: Array, bias: Array) -> Array:
        y, mean, rstd = backend.kernels.group_norm_silu(x, weight, bias, self.groups, self.eps)
        self.save(x, weight, bias, mean, rstd)
        return y

    def backward(self, gy: Array) -> tuple[Array, Array, Array]:
        return backend.kernels.group_norm_silu_backward(gy, *self.saved, self.groups)


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """Multi-head softmax attention over positions: q, k, v and the result [N, L, heads * D]."""
    fits = q.ndim == 3 and q.shape == k.shape == v.shape and q.shape[2] % heads == 0
    check_shapes("attention", fits, f"q, k and v [N, L, {heads} * D]", q, k, v)
    return Attention(heads)(q, k, v)


class Attention(Function):
    def __init__(self, heads: int):
        self.heads = heads

    def forward(self, q: Array, k: Array, v: Array) -> Array:
        y, saved = backend.kernels.attention(q, k, v, self.heads)
        self.save(q, k, v, *saved)
        return y

    def backward(self, gy: Array) -> tuple[Array, Array, Array]:
        q, k, v, *saved = self.saved
        return backend.kernels.attention_backward(gy, q, k, v, tuple(saved), self.heads)


def dropout(x: Tensor, p: float, stream: tuple[int, ...]) -> Tensor:
    """Zero each value of x with probability p and multiply the others by 1 / (1 - p).

    stream: (seed, purpose, step) of the random numbers, and the index of the first one unless it is
    0. Raises ValueError unless 0 <= p < 1.
    """
    if not 0 <= p < 1:
        raise ValueError(f"dropout: p = {p} should be at least 0 and below 1")
    return Dropout(p, stream)(x)


class Dropout(Function):
    """Saves no mask: the backward draws the same random numbers again."""

    def __init__(self, p: float, stream: tuple[int, ...]):
        self.p, self.stream = p, stream

    def forward(self, x: Array) -> Array:
        return backend.kernels.dropout(x, self.p, *self.stream)

    def backward(self, gy: Array) -> tuple[Array]:
        return (backend.kernels.dropout(gy, self.p, *self.stream),)


def upsample_nearest(x: Tensor) -> Tensor:
    """Double the height and width by repeating pixels: [N, H, W, C] -> [N, 2H, 2W, C]."""
    return UpsampleNearest()(x)


class UpsampleNearest(Function):
    def forward(self, x: Array) -> Array:
        return backend.kernels.upsample_nearest(x)

    def backward(self, gy: Array) -> tuple[Array]:
        return (backend.kernels.upsample_nearest_backward(gy),)
