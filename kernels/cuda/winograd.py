"""Rung 5 as a sequence of launches: transforms, 36 products, transforms (conv5_winograd.cu)."""

from collections.abc import Sequence

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda.ladder import RUNGS, Gradients, Sizes, sum_pixels
from minddpm.kernels.cuda.launch import blocks, cupy, launch
from minddpm.kernels.precision import precision
from minddpm.kernels.shapes import Parts

FILE = "conv5_winograd.cu"
BLOCK = (32, 8)
PRODUCT = RUNGS["4 register tile"]  # whose tile computes the products
# From the roofline model (kernels/cuda/README.md): with fewer channels the memory traffic between
# the steps takes longer than the saved multiplications. On some cards 50 channels would be enough.
MIN_CHANNELS = 256


def fits(s: Sizes, xs: Parts, up: int) -> bool:
    """Return whether Winograd's kernels compute this convolution: 3 x 3, stride 1, in float32."""
    return (
        precision() == "float32" == xs[0].dtype
        and s.KH == s.KW == 3
        and s.stride == 1
        and len(xs) == 1
        and not up
    )


def pays(s: Sizes, xs: Parts, up: int = 0) -> bool:
    """Return whether to use this rung: for many channels."""
    return fits(s, xs, up) and min(s.C, s.C_out) >= MIN_CHANNELS


def tiles_of(size: int, N: int, OH: int, OW: int) -> tuple[int, int, int]:
    """Return the number of tiles of y, `size` x `size`: in all images, down and across each."""
    down, across = blocks(OH, size), blocks(OW, size)
    return N * down * across, down, across


def _to_points(x: Array, tiles: tuple[int, int, int], top: int, left: int) -> Array:
    """Return V [36, tiles, C], the transformed tiles of x."""
    _, H, W, C = x.shape
    v = cupy().empty((36, tiles[0], C), "float32")
    grid = blocks(tiles[0], 8), blocks(C, 32)
    launch(FILE, "to_points", grid, BLOCK, x, v, H, W, C, *tiles, top, left)
    return v


def _convolved(
    x: Array, w: Array, y: Array, top: int, left: int, turned: bool,
    bias: Array | None = None, shift: Array | None = None, extra: Array | None = None,
) -> None:  # fmt: skip
    """Convolve x, padded, with w, and store the result in y.

    turned: rotate w by 180 degrees and exchange its two channel axes first.
    """
    (N, OH, OW, C_out), C = y.shape, x.shape[3]
    tiles = tiles_of(4, N, OH, OW)
    u, m = (cupy().empty(shape, "float32") for shape in ((36, C, C_out), (36, tiles[0], C_out)))
    rows, columns = w.shape[2:]
    grid = blocks(columns, 32), blocks(rows, 8)
    launch(FILE, "weights_to_points", grid, BLOCK, w, u, rows, columns, turned)
    v = _to_points(x, tiles, top, left)
    grid = blocks(tiles[0], PRODUCT.rows), blocks(C_out, PRODUCT.columns), 36
    vector = C % 4 == C_out % 4 == 0
    launch(FILE, "at_points", grid, PRODUCT.block, v, u, m, tiles[0], C, C_out, vector)
    grid = blocks(tiles[0], 8), blocks(C_out, 32)
    launch(FILE, "from_points", grid, BLOCK, m, bias, shift, extra, y, OH, OW, C_out, *tiles)


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
    """Return ladder.backward for x in one part, without upsampling."""
    xp, (x,) = cupy(), xs
    gx = None
    if need_gx:
        # x(h) contributes to gy(h + top - kh): convolve gy, padded by 2 - top, with w turned.
        gx = xp.empty(x.shape, "float32")
        extra = partial[0] if partial else None
        _convolved(gy, w, gx, 2 - s.top, 2 - s.left, True, extra=extra)
    tiles = tiles_of(4, s.N, s.OH, s.OW)
    v = _to_points(x, tiles, s.top, s.left)
    shapes = (36, tiles[0], s.C_out), (36, s.C, s.C_out), w.shape
    d, du, gw = (xp.empty(shape, "float32") for shape in shapes)
    grid = blocks(tiles[0], 8), blocks(s.C_out, 32)
    launch(FILE, "gradient_to_points", grid, BLOCK, gy, d, s.OH, s.OW, s.C_out, *tiles)
    grid = blocks(s.C, PRODUCT.rows), blocks(s.C_out, PRODUCT.columns), 36
    vector = s.C % 4 == s.C_out % 4 == 0
    launch(FILE, "weights_at_points", grid, PRODUCT.block, v, d, du, tiles[0], s.C, s.C_out, vector)
    grid = blocks(s.C_out, 32), blocks(s.C, 8)
    launch(FILE, "weights_from_points", grid, BLOCK, du, gw, s.C, s.C_out)
    gshift, gbias = sum_pixels(gy)
    return Gradients(None if gx is None else (gx,), gw, gshift, gbias)
