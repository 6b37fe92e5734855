"""Shapes and parts: conventions of all kernel sets."""

from collections.abc import Sequence

from minddpm.kernels.arrays import Array, array_module

Padding = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))
Parts = Sequence[Array]  # one array, or several side by side along the last axis
SAME: Padding = ((1, 1), (1, 1))  # with a 3x3 window the result has the image's size


def joined(xs: Parts) -> Array:
    """Return the parts as one array, concatenated along the last axis."""
    return xs[0] if len(xs) == 1 else array_module(xs[0]).concatenate(xs, axis=-1)


def cut(gx: Array, xs: Parts) -> tuple[Array, ...]:
    """Return the gradient of joined(xs) as one array per part."""
    xp, parts, start = array_module(gx), [], 0
    for x in xs:
        parts.append(xp.ascontiguousarray(gx[..., start : start + x.shape[-1]]))
        start += x.shape[-1]
    return tuple(parts)


def transposed_shape(
    x_shape: Sequence[int], w_shape: Sequence[int], stride: int, padding: Padding
) -> tuple[int, int, int, int]:
    """Return [N, OH, OW, C_out], the shape of conv_transpose2d's result."""
    (N, H, W, _), (KH, KW, C_out, _), ((top, bottom), (left, right)) = x_shape, w_shape, padding
    return N, (H - 1) * stride - top - bottom + KH, (W - 1) * stride - left - right + KW, C_out
