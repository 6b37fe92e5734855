"""A 3x3 convolution and the linear layer of a residual path in one launch (conv2d_shortcut.cuh)."""

from collections.abc import Sequence

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda import convolution, ladder
from minddpm.kernels.cuda.ladder import Gradients, Rung, Sizes, two_parts
from minddpm.kernels.cuda.launch import blocks, counters, empty, launch
from minddpm.kernels.cuda.linear import linear, linear_backward
from minddpm.kernels.shapes import SAME, Parts


def _is_one_launch(s: Sizes, h: Array, xs: Parts) -> bool:
    """Return whether the convolution's rung computes a shortcut of x in these parts, too."""
    return len(xs) <= 2 and convolution.rung_module(s, (h,)) is ladder


def convolved(h, w, b, shift, xs, w_2, b_2, rung: Rung | None = None):
    """Return y = conv(h) + b + shift + linear(x); rung: 4 or 6, for one launch in any case."""
    s = Sizes.of((h,), w.shape, 1, SAME)
    if not rung and not _is_one_launch(s, h, xs):
        extra = linear(xs, w_2, b_2)
        return convolution.convolved((h,), w, b, 1, SAME, shift=shift, extra=extra)
    (y,) = empty((s.N, s.OH, s.OW, s.C_out))
    rung = rung or ladder.choose_rung(s, s.pixels, s.C_out, dtype=h.dtype)
    grid, *sums = ladder.forward_grid(s, rung)
    vectors = ladder.vectors(Sizes.linear(xs, w_2.shape), xs, *xs, w_2)
    launch(
        *rung.kernel("conv2d_shortcut"), grid, rung.block, h, w, b, shift, y, *two_parts(xs),
        xs[0].shape[-1], len(w_2), w_2, b_2, vectors, *sums, *s,
        ladder.vectors(s, (h,), h, w, b, shift, b_2), options=ladder.options_of(rung, s, (h,)),
    )  # fmt: skip
    return y


def gradients(
    gy: Array, h: Array, w: Array, xs: Parts, w_2: Array, partial: Sequence[Array | None],
    rung: Rung | None = None,
) -> tuple[Gradients, tuple[tuple[Array, ...], Array]]:  # fmt: skip
    """Return the gradients of the convolution; gxs, with partial added, and gw of the layer."""
    s, s_2 = Sizes.of((h,), w.shape, 1, SAME), Sizes.linear(xs, w_2.shape)
    if not rung and not _is_one_launch(s, h, xs):
        gxs, gw_2, _ = linear_backward(gy, xs, w_2, partial)
        return convolution.gradients(gy, (h,), w, 1, SAME), (gxs, gw_2)
    rung = rung or ladder.choose_rung(s, s.pixels, s.C, s.C_out, dtype=h.dtype)
    gh, gw, gshift, gbias, gw_2, *gxs = empty(
        h.shape, w.shape, (s.N, s.C_out), s.C_out, w_2.shape, *[x.shape for x in xs]
    )
    tiles = [blocks(n.window, rung.rows) * blocks(s.C_out, rung.columns) for n in (s, s_2)]
    (slices, parts), (slices_2, parts_2) = (
        ladder.weight_slices(s, rung, count) for count in tiles
    )  # fmt: skip
    sums = blocks(s.C_out, 32)
    inputs = sum(blocks(n.C, rung.columns) for n in (s, s_2)) * blocks(s.pixels, rung.rows)
    grid = tiles[0] * slices + tiles[1] * slices_2 + s.N * sums + inputs
    launch(
        *rung.kernel("conv2d_shortcut_gradients"), (grid,), rung.block, gy, h, w, gh, gw, gshift,
        gbias, *two_parts(xs), xs[0].shape[-1], len(w_2), w_2, *two_parts(partial),
        *two_parts(gxs), gw_2, ladder.vectors(s_2, xs, *xs, gy, w_2, *partial), parts, parts_2,
        counters(sum(tiles) + sums), tiles[0], slices, tiles[1], slices_2, *s,
        ladder.vectors(s, (h,), gy, h, w), options=ladder.options_of(rung, s, (h,)),
    )  # fmt: skip
    return Gradients((gh,), gw, gshift, gbias), (tuple(gxs), gw_2)
