"""Linear layers: weights [C_in, C_out], over the last axis of x."""

import sys
from collections.abc import Sequence
from types import ModuleType

from minddpm.kernels.arrays import Array
from minddpm.kernels.reference.pointwise import add_all
from minddpm.kernels.shapes import Parts, cut, joined

REFERENCE = sys.modules[__package__]


def linear(xs: Parts, w: Array, b: Array | None, extra: Array | None = None) -> Array:
    """y = x w + b + extra over the last axis: x [..., C_in], w [C_in, C_out], b [C_out] or None.

    xs: the parts of x, side by side along the last axis; usually only one.
    """
    x = joined(xs)
    y = (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[1])
    if b is not None:
        y += b
    if extra is not None:
        y += extra
    return y


def linear_backward(
    gy: Array, xs: Parts, w: Array, partial: Sequence[Array | None] = ()
) -> tuple[tuple[Array, ...], Array, Array]:
    """gx = gy w^T, cut into the parts; gw = x^T gy; gb = sum of gy over all but the last axis."""
    x = joined(xs)
    x2, gy2 = x.reshape(-1, x.shape[-1]), gy.reshape(-1, gy.shape[-1])
    gxs = cut((gy2 @ w.T).reshape(x.shape), xs)
    return add_all(gxs, partial), x2.T @ gy2, gy2.sum(axis=0)


def linears(
    x: Array, ws: Sequence[Array], bs: Sequence[Array], *, kernels: ModuleType | None = None
) -> tuple[Array, ...]:
    """Apply several linear layers to one x, such as the three projections of attention."""
    kernels = kernels or REFERENCE
    return tuple(kernels.linear((x,), w, b) for w, b in zip(ws, bs, strict=True))


def linears_backward(
    gys: Sequence[Array], x: Array, ws: Sequence[Array], partial: Array | None = None,
    *, kernels: ModuleType | None = None,
) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:  # fmt: skip
    """Return gx (summed over all layers), gws, gbs; each layer adds to gx of the previous ones."""
    kernels, gx, gws, gbs = kernels or REFERENCE, partial, [], []
    for gy, w in zip(gys, ws, strict=True):
        (gx,), gw, gb = kernels.linear_backward(gy, (x,), w, (gx,))
        gws.append(gw)
        gbs.append(gb)
    return gx, tuple(gws), tuple(gbs)
