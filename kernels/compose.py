"""Operations made of other operations, written once for every kernel set.

`kernels` is the module whose group_norm_silu and conv2d are used: for the reference that is the
definition, and for the fast sets what they do with shapes that their fused kernel does not take.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from inspect import signature
from types import ModuleType
from typing import Any

import numpy as np

from minddpm.backend import Array, array_module

Padding = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))
Parts = Sequence[Array]  # one array, or several that stand side by side along the last axis
SAME: Padding = ((1, 1), (1, 1))  # a 3x3 window gives a picture of the same size


def float32_only(
    function: Callable, specification: Callable, contiguous: Callable[[Any], Any]
) -> Callable:
    """`function` of contiguous float32 arrays; of other types the specification.

    contiguous(x): an array with its rows one behind the other, anything else as it is. Raises
    OtherTypeError for an array that is not float32. What `function` has kept from its forward
    (the parameter `kept`) is its own, of whatever type.
    """
    names = list(signature(function).parameters)
    kept = names.index("kept") if "kept" in names else None

    def each(x: Any) -> Any:
        return tuple(map(each, x)) if isinstance(x, tuple) else contiguous(x)

    @wraps(function)
    def chosen(*args, **kwargs):
        try:
            return function(*(x if i == kept else each(x) for i, x in enumerate(args)), **kwargs)
        except OtherTypeError:
            return specification(*args, **kwargs)

    return chosen


class OtherTypeError(Exception):
    """An array that is not float32 was met."""


def joined(xs: Parts) -> Array:
    """The parts side by side."""
    return xs[0] if len(xs) == 1 else array_module(xs[0]).concatenate(xs, axis=-1)


def cut(gx: Array, xs: Parts) -> tuple[Array, ...]:
    """The gradient of joined(xs): each part's share of the last axis."""
    xp, parts, start = array_module(gx), [], 0
    for x in xs:
        parts.append(xp.ascontiguousarray(gx[..., start : start + x.shape[-1]]))
        start += x.shape[-1]
    return tuple(parts)


def added(kernels: ModuleType, gx: Array, plus: Array | None) -> Array:
    """gx + plus, in place; gx itself where there is no plus."""
    if plus is not None:
        kernels.add_to(gx, plus)
    return gx


def all_added(
    kernels: ModuleType, gxs: tuple[Array, ...], plus: Sequence[Array | None]
) -> tuple[Array, ...]:
    """added, part by part; an empty plus adds nothing."""
    for gx, more in zip(gxs, plus or (None,) * len(gxs), strict=True):
        added(kernels, gx, more)
    return gxs


def spread(groups: Array, x: Array) -> Array:
    """Each group's value at each of its channels, [N, G] -> [N, 1, ..., 1, C], to go with x."""
    N, C = x.shape[0], x.shape[-1]
    channels = groups.repeat(C // groups.shape[1], axis=1)
    return channels.reshape(N, *(1,) * (x.ndim - 2), C)


def normalised(x: Array, mean: Array, rstd: Array) -> Array:
    """(x - mean) rstd with the mean and rstd [N, G] of the groups."""
    n = x - spread(mean, x)
    n *= spread(rstd, x)
    return n


def compose_denoise(
    kernels: ModuleType, run: Callable[[Array, Array], Array], x: Array, timesteps: np.ndarray,
    coefficients: np.ndarray, clip: bool, stream: tuple[int, int, int],
    noise: Callable[[int], Array] | None,
) -> Iterator[tuple[Array, Array]]:  # fmt: skip
    """denoise, one operation after the other."""
    seed, purpose, first = stream
    xp = array_module(x)
    for i, t in enumerate(timesteps):
        output = run(x, xp.full(len(x), int(t), "int64"))
        row = tuple(map(float, coefficients[i]))
        if row[-1] != 0 and noise is None:
            x, pred_x0 = kernels.sampler_step_normal(x, output, row, clip, seed, purpose, i, first)
        else:
            z = noise(i) if row[-1] != 0 else None
            x, pred_x0 = kernels.sampler_step(x, output, z, row, clip)
        yield x, pred_x0


def compose_norm_silu_conv2d(
    kernels: ModuleType, xs: Parts, norm_weight: Array, norm_bias: Array, groups: int, eps: float,
    w: Array, b: Array, shift: Array | None, extra: Array | None,
) -> tuple[Array, tuple[Array, Array]]:  # fmt: skip
    """norm_silu_conv2d from the operations of a kernel set, one after the other."""
    h, mean, rstd = kernels.group_norm_silu(joined(xs), norm_weight, norm_bias, groups, eps)
    y = kernels.conv2d(h, w, b, 1, SAME)
    if shift is not None:
        y += shift[:, None, None, :]
    if extra is not None:
        y += extra
    return y, (mean, rstd)


def compose_norm_silu_conv2d_backward(
    kernels: ModuleType, gy: Array, xs: Parts, norm_weight: Array, norm_bias: Array,
    kept: tuple[Array, ...], groups: int, w: Array,
    plus: Sequence[Array | None],
) -> tuple[tuple[Array, ...], Array, Array, Array, Array, Array]:  # fmt: skip
    """Its backward; the value between normalisation and convolution is made again from x."""
    x, (mean, rstd) = joined(xs), kept
    h = kernels.silu(normalised(x, mean, rstd) * norm_weight + norm_bias)
    gh, gw, gb = kernels.conv2d_backward(gy, h, w, 1, SAME)
    gx, gnorm_weight, gnorm_bias = kernels.group_norm_silu_backward(
        gh, x, norm_weight, norm_bias, mean, rstd, groups
    )
    gxs = all_added(kernels, cut(gx, xs), plus)
    return gxs, gnorm_weight, gnorm_bias, gw, gb, gy.sum(axis=(1, 2))


def transposed_shape(
    x_shape: Sequence[int], w_shape: Sequence[int], stride: int, padding: Padding
) -> tuple[int, int, int, int]:
    """[N, OH, OW, C_out], the shape of conv_transpose2d's result."""
    (N, H, W, _), (KH, KW, C_out, _), ((top, bottom), (left, right)) = x_shape, w_shape, padding
    return N, (H - 1) * stride - top - bottom + KH, (W - 1) * stride - left - right + KW, C_out


def are_pixels(x_shape: Sequence[int], padding: Padding) -> bool:
    """Whether conv_transpose2d only multiplies: each picture is a pixel, and nothing is cut off."""
    return tuple(x_shape[1:3]) == (1, 1) and not any(map(any, padding))


def window_columns(w: Array) -> Array:
    """w [KH, KW, C_out, C_in] as the matrix [C_in, KH KW C_out] that such pixels meet."""
    return array_module(w).ascontiguousarray(w.reshape(-1, w.shape[3]).T)


def compose_conv_transpose2d_backward(
    kernels: ModuleType, gy: Array, x: Array, w: Array, stride: int, padding: Padding,
    need_gx: bool, plus: Array | None,
) -> tuple[Array | None, Array, Array]:  # fmt: skip
    """Its backward: the convolution itself, and its gradient of w with x and gy exchanged."""
    _, gw, _ = kernels.conv2d_backward(x, gy, w, stride, padding, need_gx=False)
    gb = gy.sum(axis=(0, 1, 2))
    if not need_gx:
        return None, gw, gb
    return added(kernels, kernels.conv2d(gy, w, None, stride, padding), plus), gw, gb


def compose_pixels_backward(
    kernels: ModuleType, gy: Array, x: Array, w: Array, need_gx: bool, plus: Array | None
) -> tuple[Array | None, Array, Array]:
    """The same of pictures of one pixel, as a linear layer's."""
    N, (KH, KW, C_out, _) = len(x), w.shape
    gy = gy.reshape(N, KH * KW * C_out)
    (gx,), gw, gb = kernels.linear_backward(gy, (x[:, 0, 0],), window_columns(w))
    gw = array_module(w).ascontiguousarray(gw.T).reshape(w.shape)
    gx = added(kernels, gx.reshape(x.shape), plus) if need_gx else None
    return gx, gw, gb.reshape(KH * KW, C_out).sum(axis=0)


def compose_linears(
    kernels: ModuleType, x: Array, ws: Sequence[Array], bs: Sequence[Array]
) -> tuple[Array, ...]:
    """linears, one after the other."""
    return tuple(kernels.linear((x,), w, b) for w, b in zip(ws, bs, strict=True))


def compose_linears_backward(
    kernels: ModuleType, gys: Sequence[Array], x: Array, ws: Sequence[Array], plus: Array | None
) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
    """Its backward: each one adds its gx to what the one before it found."""
    gx, gws, gbs = plus, [], []
    for gy, w in zip(gys, ws, strict=True):
        (gx,), gw, gb = kernels.linear_backward(gy, (x,), w, (gx,))
        gws.append(gw)
        gbs.append(gb)
    return gx, tuple(gws), tuple(gbs)
