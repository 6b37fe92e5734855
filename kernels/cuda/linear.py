"""How several linear layers of one x are launched together (linears.cu)."""

from collections.abc import Sequence
from functools import cache
from types import ModuleType

import numpy as np

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda.convolution import Sizes, register_tile, sliced
from minddpm.kernels.cuda.launch import aligned, blocks, counters, cupy, launch


@cache
def _table(library: ModuleType, lines: tuple[tuple[int, ...], ...]) -> Array:
    """The lines on the device; they are the same at every step where they name weights only.

    Kept for good: a recorded graph reads them wherever they lay.
    """
    return library.asarray(np.array(lines, np.uint64))


def _cut(flat: Array, shapes: Sequence[tuple[int, ...]]) -> tuple[Array, ...]:
    """One array of each shape, one behind the other."""
    parts, start = [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        parts.append(flat[start : start + size].reshape(shape))
        start += size
    return tuple(parts)


def _vector(s: Sizes, Ks: Sequence[int], *arrays: Array | None) -> bool:
    return s.C % 4 == 0 and all(K % 4 == 0 for K in Ks) and aligned(*arrays)


def forward(x: Array, ws: Sequence[Array], bs: Sequence[Array]) -> tuple[Array, ...]:
    """x w + b for each w and b: [..., C] -> as many [..., K]."""
    s, Ks = Sizes.linear((x,), ws[0].shape), [w.shape[1] for w in ws]
    rung = register_tile(max(Ks))
    starts = np.cumsum([0, *Ks[:-1]])
    lines = zip(ws, bs, Ks, starts, strict=True)
    table = tuple((w.data.ptr, b.data.ptr, K, int(start)) for w, b, K, start in lines)
    y = cupy().empty(s.pixels * sum(Ks), "float32")
    grid = blocks(s.pixels, rung.rows), sum(blocks(K, rung.columns) for K in Ks)
    launch(
        "linears.cu", "linears", grid, rung.block, x, _table(cupy(), table), y, s.N, s.W, s.C,
        _vector(s, Ks, x, *ws), options=rung.options,
    )  # fmt: skip
    return _cut(y, [(*x.shape[:-1], K) for K in Ks])


def backward(
    gys: Sequence[Array], x: Array, ws: Sequence[Array], partial: Array | None
) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
    """gx, the sum over all layers and partial; gws; gbs."""
    xp = cupy()
    s, Ks = Sizes.linear((x,), ws[0].shape), [w.shape[1] for w in ws]
    rung = register_tile(max(s.C, *Ks))
    gx = xp.empty(x.shape, "float32")
    gws = _cut(xp.empty(sum(w.size for w in ws), "float32"), [w.shape for w in ws])
    gbs = _cut(xp.empty(sum(Ks), "float32"), [(K,) for K in Ks])
    gshifts = _cut(xp.empty(s.N * sum(Ks), "float32"), [(s.N, K) for K in Ks])
    lines = zip(gys, ws, gws, gshifts, gbs, strict=True)
    table = xp.asarray(
        np.array([(*(a.data.ptr for a in line), K) for line, K in zip(lines, Ks, strict=True)],
                 np.uint64)
    )  # fmt: skip
    tiles_x = blocks(s.pixels, rung.rows) * blocks(s.C, rung.columns)
    tiles_w = sum(blocks(s.C, rung.rows) * blocks(K, rung.columns) for K in Ks)
    groups = sum(blocks(K, 32) for K in Ks)
    slices, parts = sliced(s, rung, tiles_w)
    launch(
        "linears.cu", "linears_backward", (tiles_x + tiles_w * slices + s.N * groups,),
        rung.block, x, table, partial, gx, parts, counters(tiles_w + groups), len(Ks), slices, s.N,
        s.W, s.C, _vector(s, Ks, x, *gys, *ws), options=rung.options,
    )  # fmt: skip
    return gx, gws, gbs
