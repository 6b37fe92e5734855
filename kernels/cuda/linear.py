"""Linear layers: one is a convolution with a 1 x 1 window, several share a launch (linears.cu)."""

from collections.abc import Sequence

import numpy as np

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda import ladder
from minddpm.kernels.cuda.ladder import Sizes, register_tile, weight_slices
from minddpm.kernels.cuda.launch import aligned, blocks, counters, cupy, empty, launch, table
from minddpm.kernels.cuda.pointwise import add_all
from minddpm.kernels.float32 import float32_only
from minddpm.kernels.shapes import cut, joined


@float32_only
def linear(xs, w, b, extra=None):
    (y,) = empty((*xs[0].shape[:-1], w.shape[1]))
    if len(xs) > 2:
        xs = (joined(xs),)
    ladder.forward(Sizes.linear(xs, w.shape), xs, w, b, y, extra=extra)
    return y


@float32_only
def linear_backward(gy, xs, w, partial=()):
    if len(xs) > 2:
        gxs, gw, gb = linear_backward(gy, (joined(xs),), w)
        return add_all(cut(gxs[0], xs), partial), gw, gb
    g = ladder.backward(Sizes.linear(xs, w.shape), gy, xs, w, partial=partial)
    return g.gxs, g.w, g.bias


# --- several layers of one x ---------------------------------------------------------------------


LAYERS = 48  # of a launch, in linears.cu, too: all arguments have at most 4 KB
LAYER = np.dtype([("w", "u8"), ("bias", "u8"), ("K", "i4"), ("start", "i4")])
LAYER_BACKWARD = np.dtype(
    [*((a, "u8") for a in ("gy", "w", "gw", "gshift", "gbias")), ("K", "i4")], align=True
)


def _split(flat: Array, shapes: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
    """Return consecutive parts of flat, one array of each shape."""
    parts, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        parts.append(flat[start : start + size].reshape(shape))
        start += size
    return tuple(parts)


def _vector(s: Sizes, widths: Sequence[int], *arrays: Array | None) -> bool:
    """Return whether kernels may fetch four numbers together; widths: C_out of each layer."""
    return s.C % 4 == 0 and all(width % 4 == 0 for width in widths) and aligned(*arrays)


@float32_only
def linears(x, ws, bs):
    if len(ws) > LAYERS:
        return *linears(x, ws[:LAYERS], bs[:LAYERS]), *linears(x, ws[LAYERS:], bs[LAYERS:])
    s, widths = Sizes.linear((x,), ws[0].shape), [w.shape[1] for w in ws]
    rung = register_tile(s.pixels, *widths)
    starts = np.cumsum([0, *widths[:-1]])
    lines = zip(ws, bs, widths, starts, strict=True)
    lines = ((w.data.ptr, b.data.ptr, K, start) for w, b, K, start in lines)
    layers = table("layer", LAYER, LAYERS, lines)
    y = cupy().empty(s.pixels * sum(widths), "float32")
    grid = blocks(s.pixels, rung.rows), sum(blocks(width, rung.columns) for width in widths)
    launch(
        "linears.cu", "linears", grid, rung.block, x, layers, y, s.N, s.W, s.C,
        _vector(s, widths, x, *ws, *bs), options=rung.options,
    )  # fmt: skip
    return _split(y, [(*x.shape[:-1], width) for width in widths])


@float32_only
def linears_backward(gys, x, ws, partial=None):
    if len(ws) > LAYERS:
        gx, *first = linears_backward(gys[:LAYERS], x, ws[:LAYERS], partial)
        gx, *rest = linears_backward(gys[LAYERS:], x, ws[LAYERS:], gx)
        return gx, *(a + b for a, b in zip(first, rest, strict=True))
    xp = cupy()
    s, widths = Sizes.linear((x,), ws[0].shape), [w.shape[1] for w in ws]
    rung = register_tile(s.pixels, s.C, *widths)
    gx = xp.empty(x.shape, "float32")
    gws = _split(xp.empty(sum(w.size for w in ws), "float32"), [w.shape for w in ws])
    gbs = _split(xp.empty(sum(widths), "float32"), [(width,) for width in widths])
    gshifts = _split(xp.empty(s.N * sum(widths), "float32"), [(s.N, width) for width in widths])
    lines = zip(gys, ws, gws, gshifts, gbs, widths, strict=True)
    lines = ((*(a.data.ptr for a in xs), K) for *xs, K in lines)
    layers = table("layer", LAYER_BACKWARD, LAYERS, lines)
    tiles_x = blocks(s.pixels, rung.rows) * blocks(s.C, rung.columns)
    tiles_w = sum(blocks(s.C, rung.rows) * blocks(width, rung.columns) for width in widths)
    groups = sum(blocks(width, 32) for width in widths)
    slices, parts = weight_slices(s, rung, tiles_w)
    launch(
        "linears.cu", "linears_backward", (tiles_x + tiles_w * slices + s.N * groups,),
        rung.block, x, layers, partial, gx, parts, counters(tiles_w + groups), len(widths), slices,
        s.N, s.W, s.C, _vector(s, widths, x, *gys, *ws, partial), options=rung.options,
    )  # fmt: skip
    return gx, gws, gbs
