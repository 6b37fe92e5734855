"""The convolution's rungs by name, which one is used for which shape, and how each is launched.

A linear layer is a convolution here, too: its rows are the pixels of one picture in one row.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda.launch import aligned, blocks, counters, cupy, launch
from minddpm.kernels.precision import available_precisions, precision
from minddpm.kernels.shapes import Padding, Parts

BFLOAT16 = "uint16"  # NumPy has no bfloat16, and CuPy only with ml_dtypes: its bits


class Rung(NamedTuple):
    """A file of the ladder whose kernels share a block, and the rows and columns of its tile.

    stored: the type that it rounds to, if arrays may have it: x may come in it.
    """

    file: str
    block: tuple[int, ...]
    rows: int
    columns: int
    options: tuple[str, ...] = ()
    stored: str = "float32"


RUNGS = {
    "1 naive": Rung("conv1_naive.cu", (32, 8), 32, 8),
    "2 coalesced": Rung("conv2_coalesced.cu", (32, 8), 8, 32),
    "3 shared tile": Rung("conv3_shared.cu", (16, 16), 16, 16),
    "4 register tile": Rung("conv4_registers.cu", (256,), 64, 64),
    "4 register tile, 32 columns": Rung(
        "conv4_registers.cu", (128,), 64, 32, ("-DCOLUMNS=32",)
    ),
    "6 tensor cores, half": Rung("conv6_tensor.cu", (128,), 64, 64, (), "float16"),
    "6 tensor cores, bfloat16": Rung("conv6_tensor.cu", (128,), 64, 64, ("-DBF16",), BFLOAT16),
    "6 tensor cores, TF32": Rung("conv6_tensor.cu", (128,), 64, 64, ("-DTF32",)),
}  # fmt: skip
TENSOR_CORES = {
    "fp16": "6 tensor cores, half", "bf16": "6 tensor cores, bfloat16",
    "tf32": "6 tensor cores, TF32",
}  # fmt: skip
FEWEST_CHANNELS = 16  # for them: below, most of a fragment would be zeros
WHOLE_BACKWARD = "conv4_registers.cu", "conv6_tensor.cu"  # in one launch
ENOUGH_BLOCKS = 256  # of gw: two for each multiprocessor of a large GPU
FEWEST_PIXELS = 64  # that a slice of gw adds up


class Sizes(NamedTuple):
    """A convolution's sizes, in the order in which kernels take them (convolution.cuh)."""

    N: int
    H: int
    W: int
    C: int
    OH: int
    OW: int
    K: int
    KH: int
    KW: int
    stride: int
    top: int
    left: int

    @classmethod
    def of(
        cls, xs: Parts, w_shape: Sequence[int], stride: int, padding: Padding, up: int = 0
    ) -> "Sizes":
        """up: 1 if the picture counts as one of twice the height and width."""
        N, H, W = xs[0].shape[0], xs[0].shape[1] << up, xs[0].shape[2] << up
        KH, KW, C, K = w_shape
        (top, bottom), (left, right) = padding
        OH, OW = (H + top + bottom - KH) // stride + 1, (W + left + right - KW) // stride + 1
        return cls(N, H, W, C, OH, OW, K, KH, KW, stride, top, left)

    @classmethod
    def linear(cls, xs: Parts, w_shape: Sequence[int]) -> "Sizes":
        """Of x [..., C] w."""
        C, K = w_shape
        shape = xs[0].shape[:-1]
        # Rows of several images are summed up image by image for the gradient of the bias.
        N = shape[0] if len(shape) > 1 else 1
        rows = math.prod(shape) // max(1, N)
        return cls(N, 1, rows, C, 1, rows, K, 1, 1, 1, 0, 0)

    @property
    def window(self) -> int:
        """The depth of the forward's product."""
        return self.KH * self.KW * self.C

    @property
    def pixels(self) -> int:
        """Of y, in all pictures."""
        return self.N * self.OH * self.OW


def rungs() -> dict[str, Rung]:
    """Those of RUNGS that the GPU at hand can run."""
    available = available_precisions(cupy().cuda)
    lacking = [rung for name, rung in TENSOR_CORES.items() if name not in available]
    return {name: rung for name, rung in RUNGS.items() if name not in lacking}


def register_tile(columns: int) -> Rung:
    """Rung 4 with the tile that a result of so many columns fills better."""
    return RUNGS["4 register tile, 32 columns" if columns <= 32 else "4 register tile"]


def chosen(s: Sizes, columns: int, dtype: str = "float32") -> Rung:
    """The rung for a convolution of these sizes whose widest result has so many columns.

    dtype: of x; of 16 bits it can be read by one rung only, whatever the precision is by now.
    """
    if dtype != "float32":
        return next(rung for rung in RUNGS.values() if rung.stored == dtype)
    tensor_cores = TENSOR_CORES.get(precision())
    if tensor_cores and min(s.C, s.K) >= FEWEST_CHANNELS:
        return RUNGS[tensor_cores]
    return register_tile(columns)


def stored_as(s: Sizes) -> str:
    """The type in which x is kept if this convolution alone reads it: what it would round x to."""
    return chosen(s, s.K).stored


def _options(rung: Rung, xs: Parts) -> tuple[str, ...]:
    """Of the compiler, for an x of this type."""
    return rung.options if xs[0].dtype == "float32" else (*rung.options, "-DSTORED")


def forward(
    s: Sizes, xs: Parts, w: Array, bias: Array | None, y: Array, *, up: int = 0,
    shift: Array | None = None, extra: Array | None = None, rung: Rung | None = None,
) -> None:  # fmt: skip
    """y = conv(x) + bias [K] + shift [N, K] + extra (of y's shape)."""
    rung = rung or chosen(s, s.K, xs[0].dtype)
    parts = two(xs)
    grid = blocks(s.pixels, rung.rows), blocks(s.K, rung.columns)
    launch(
        rung.file, "conv2d", grid, rung.block, *parts, xs[0].shape[-1], up, w, bias, shift, extra,
        y, *s, _vector(s, xs, *parts, w), options=_options(rung, xs),
    )  # fmt: skip


def transposed(s: Sizes, x: Array, w: Array, bias: Array, y: Array) -> None:
    """y = the transpose of the convolution s, of x, + bias: by the kernel for its gradient of x."""
    rung = chosen(s, s.C)
    grid = blocks(s.N * s.H * s.W, rung.rows), blocks(s.C, rung.columns)
    launch(
        rung.file, "conv2d_gradient_x", grid, rung.block, x, w, None, None, bias, y, None, s.C, 0,
        *s, _vector(s, (y,), x, w), options=rung.options,
    )  # fmt: skip


class Gradients(NamedTuple):
    """gx in its parts (None where it was not asked for), gw, gshift [N, K], gbias [K]."""

    gxs: tuple[Array, ...] | None
    w: Array
    shift: Array
    bias: Array


def backward(
    s: Sizes, gy: Array, xs: Parts, w: Array, *, up: int = 0, need_gx: bool = True,
    partial: Sequence[Array | None] = (), rung: Rung | None = None,
) -> Gradients:  # fmt: skip
    """All gradients in one launch of rung 4 or 6; partial is added to gxs."""
    xp = cupy()
    rung = rung or chosen(s, max(s.C, s.K), xs[0].dtype)
    gxs = tuple(xp.empty(x.shape, "float32") for x in xs) if need_gx else None
    gw, gshift, gbias = (xp.empty(n, "float32") for n in (w.shape, (s.N, s.K), s.K))
    pixels = s.N * (s.H >> up) * (s.W >> up)
    tiles_x = blocks(pixels, rung.rows) * blocks(s.C, rung.columns) if need_gx else 0
    tiles_w = blocks(s.window, rung.rows) * blocks(s.K, rung.columns)
    slices, parts = sliced(s, rung, tiles_w)
    groups = blocks(s.K, 32)
    launch(
        rung.file, "conv2d_gradients", (tiles_x + tiles_w * slices + s.N * groups,), rung.block,
        gy, *two(xs), xs[0].shape[-1], up, w, *two(partial), *two(gxs or ()), gw, gshift, gbias,
        parts, counters(tiles_w + groups), tiles_x, tiles_w, slices, *s,
        _vector(s, xs, gy, *xs, w), options=_options(rung, xs),
    )  # fmt: skip
    return Gradients(gxs, gw, gshift, gbias)


def sum_pixels(gy: Array) -> tuple[Array, Array]:
    """gy [N, H, W, K] summed over the pixels of each image, [N, K], and over all images, [K].

    By those of rung 4's three kinds of blocks that do so.
    """
    N, K = gy.shape[0], gy.shape[3]
    s = Sizes.of((gy,), (1, 1, K, K), 1, ((0, 0), (0, 0)))
    gshift, gbias = (cupy().empty(shape, "float32") for shape in ((N, K), K))
    rung, groups = register_tile(K), blocks(K, 32)
    none = (None,) * 2
    launch(
        rung.file, "conv2d_gradients", (N * groups,), rung.block, gy, *none, 0, 0, None, *none,
        *none, None, gshift, gbias, None, counters(groups), 0, 0, 1, *s, aligned(gy),
        options=rung.options,
    )  # fmt: skip
    return gshift, gbias


def sliced(s: Sizes, rung: Rung, tiles: int) -> tuple[int, Array]:
    """Into how many slices of pixels each tile of gw is cut, and room for what they find."""
    slices = min(blocks(ENOUGH_BLOCKS, tiles), blocks(s.pixels, FEWEST_PIXELS))
    return slices, cupy().empty(slices * tiles * rung.rows * rung.columns, "float32")


def gradients_apart(
    s: Sizes, gy: Array, xs: Parts, w: Array, rung: Rung, up: int = 0
) -> tuple[tuple[Array, ...], Array]:
    """gx in its parts and gw by the two kernels that every rung has."""
    xp = cupy()
    gxs = tuple(xp.empty(x.shape, "float32") for x in xs)
    gw, C1, pixels = xp.empty(w.shape, "float32"), xs[0].shape[-1], s.N * (s.H >> up) * (s.W >> up)
    for name, rows, columns, arrays in (
        ("conv2d_gradient_x", pixels, s.C, (gy, w, *(None,) * 3, *two(gxs), C1, up)),
        ("conv2d_gradient_w", s.window, s.K, (gy, *two(xs), C1, up, gw)),
    ):
        grid = blocks(rows, rung.rows), blocks(columns, rung.columns)
        vector = _vector(s, xs, gy, *xs, w)
        launch(rung.file, name, grid, rung.block, *arrays, *s, vector, options=_options(rung, xs))
    return gxs, gw


def two(parts: Sequence[Array | None]) -> tuple[Array | None, Array | None]:
    """One or two parts, or none, as kernels take them: None for what is not there."""
    return (*parts, *(None,) * (2 - len(parts)))


def _vector(s: Sizes, xs: Parts, *arrays: Array | None) -> bool:
    """Whether kernels may fetch four numbers at once."""
    return s.C % 4 == s.K % 4 == xs[0].shape[-1] % 4 == 0 and aligned(*arrays)
