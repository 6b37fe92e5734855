"""Rung 5 in one kernel: Winograd F(2x2) for GPUs without TF32 (conv5_fused.cu)."""

from collections.abc import Sequence

from minddpm.kernels import gpu
from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda import ladder, winograd
from minddpm.kernels.cuda.ladder import Gradients, Sizes
from minddpm.kernels.cuda.launch import blocks, cupy, launch
from minddpm.kernels.shapes import Parts

FILE = "conv5_fused.cu"
TILES = COLUMNS = 32  # of a block
# Later GPUs can be faster by TF32, or are limited by launches, of which this rung has more.
FIRST_TF32 = 80


def pays(s: Sizes, xs: Parts, up: int = 0) -> bool:
    """Return whether to use this rung: on an old GPU, if its blocks are full and enough."""
    tiles = winograd.tiles_of(2, s.N, s.OH, s.OW)[0]
    return (
        winograd.fits(s, xs, up)
        and s.C % 4 == s.C_out % 4 == 0
        and min(s.C, s.C_out) >= COLUMNS
        and gpu.architecture(cupy().cuda) < FIRST_TF32
        and blocks(tiles, TILES) * blocks(s.C_out, COLUMNS) >= ladder.multiprocessors(cupy())
    )


def _convolved(
    x: Array, w: Array, y: Array, top: int, left: int, turned: bool,
    bias: Array | None = None, shift: Array | None = None, extra: Array | None = None,
) -> None:  # fmt: skip
    """Compute winograd._convolved."""
    (N, OH, OW, K), (_, H, W, C) = y.shape, x.shape
    u = cupy().empty((16, C, K), "float32")
    rows, columns = w.shape[2:]
    grid = blocks(columns, 32), blocks(rows, 8)
    launch(FILE, "weights_to_16", grid, (32, 8), w, u, rows, columns, turned)
    tiles = winograd.tiles_of(2, N, OH, OW)
    grid = blocks(tiles[0], TILES), blocks(K, COLUMNS)
    launch(
        FILE, "conv2d_fused", grid, (256,), x, u, bias, shift, extra, y, H, W, C, OH, OW, K,
        *tiles, top, left,
    )  # fmt: skip


def forward(
    s: Sizes, xs: Parts, w: Array, bias: Array | None, y: Array, *, up: int = 0,
    shift: Array | None = None, extra: Array | None = None,
) -> None:  # fmt: skip
    """Compute ladder.forward for x in one part, without upsampling."""
    _convolved(xs[0], w, y, s.top, s.left, False, bias, shift, extra)


def backward(
    s: Sizes, gy: Array, xs: Parts, w: Array, *, up: int = 0, need_gx: bool = True,
    partial: Sequence[Array | None] = (),
) -> Gradients:  # fmt: skip
    """Return ladder.backward for x in one part, without upsampling; only gx is by this rung."""
    others = ladder.backward(s, gy, xs, w, need_gx=False)
    if not need_gx:
        return others
    gx = cupy().empty(xs[0].shape, "float32")
    _convolved(gy, w, gx, 2 - s.top, 2 - s.left, True, extra=partial[0] if partial else None)
    return others._replace(gxs=(gx,))
