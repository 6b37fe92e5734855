"""A 3 x 3 convolution to one channel, which would waste most of a tile (conv_column.cu)."""

from collections.abc import Sequence

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda import ladder, winograd
from minddpm.kernels.cuda.ladder import Gradients, Sizes
from minddpm.kernels.cuda.launch import aligned, blocks, counters, cupy, empty, launch
from minddpm.kernels.shapes import Parts

FILE = "conv_column.cu"
PIXELS = 32  # of a block at a time


def pays(s: Sizes, xs: Parts, up: int = 0) -> bool:
    """Return whether these kernels compute the convolution; x is read in vectors."""
    return s.C_out == 1 and s.C % 4 == 0 and aligned(*xs) and winograd.fits(s, xs, up)


def forward(
    s: Sizes, xs: Parts, w: Array, bias: Array | None, y: Array, *, up: int = 0,
    shift: Array | None = None, extra: Array | None = None,
) -> None:  # fmt: skip
    """Compute ladder.forward for x in one part, without upsampling."""
    if not aligned(w):  # which is read in vectors, too
        ladder.forward(s, xs, w, bias, y, shift=shift, extra=extra)
        return
    grid = (blocks(s.pixels, PIXELS),)
    launch(FILE, "conv2d_column", grid, (256,), xs[0], w, bias, shift, extra, y, *s, 1)


def backward(
    s: Sizes, gy: Array, xs: Parts, w: Array, *, up: int = 0, need_gx: bool = True,
    partial: Sequence[Array | None] = (),
) -> Gradients:  # fmt: skip
    """Return ladder.backward for x in one part, without upsampling; gw is computed here."""
    pixels = s.N * s.H * s.W
    # Four blocks for each multiprocessor, and 16 steps at least for each block.
    slices = min(4 * ladder.multiprocessors(cupy()), blocks(pixels, 16 * PIXELS))
    gw, parts = empty(w.shape, (slices, s.window))
    groups = blocks(s.C, 32)
    launch(
        FILE, "gradient_w_column", (slices, groups), (256,), gy, xs[0], gw, parts,
        counters(groups), *s, 1,
    )  # fmt: skip
    others = ladder.backward(s, gy, xs, w, need_gx=need_gx, partial=partial, need_gw=False)
    return others._replace(w=gw)
