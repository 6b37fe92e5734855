"""The convolution's sizes and rungs, which rung is used for which shape, and how it is launched.

A linear layer is a convolution here, too: its rows are the pixels of an image one row high.
"""

import math
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import NamedTuple

from minddpm.kernels import gpu
from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda.launch import aligned, blocks, counters, cupy, launch
from minddpm.kernels.precision import available_precisions, precision
from minddpm.kernels.shapes import Padding, Parts

BFLOAT16 = "uint16"  # bfloat16's bits: NumPy lacks the type, CuPy needs ml_dtypes
FUSED_BACKWARD = "conv4_registers.cu", "conv6_tensor.cu"  # all gradients in one launch
# Their other kernels are in files whose names end in this: a program compiles only what it uses.
KERNELS = {
    "conv2d_gradients": "gradients",
    **dict.fromkeys(("conv2d_gradient_x", "conv2d_gradient_w"), "separate"),
    **dict.fromkeys(("conv2d_shortcut", "conv2d_shortcut_gradients"), "shortcut"),
}


def file_of(forward: str, kernel: str) -> str:
    """Return the file that has a kernel of a rung, of which this is the forward's file."""
    if forward in FUSED_BACKWARD and kernel in KERNELS:
        return f"{forward.partition('_')[0]}_{KERNELS[kernel]}.cu"
    return forward


class Rung(NamedTuple):
    """The kernels of a rung: the file of the forward, their block, rows and columns of their tile.

    options: of the compiler. stored: the 16-bit type to which it rounds, in which x may be given;
    "float32" if x is always float32.
    """

    file: str
    block: tuple[int, ...]
    rows: int
    columns: int
    options: tuple[str, ...] = ()
    stored: str = "float32"

    def kernel(self, name: str) -> tuple[str, str]:
        """Return the file that has the kernel of this name, and the name."""
        return file_of(self.file, name), name


RUNGS = {
    "1 naive": Rung("conv1_naive.cu", (32, 8), 32, 8),
    "2 coalesced": Rung("conv2_coalesced.cu", (32, 8), 8, 32),
    "3 shared tile": Rung("conv3_shared.cu", (16, 16), 16, 16),
    "4 register tile": Rung("conv4_registers.cu", (128,), 128, 64),
    "4 register tile, 32 columns": Rung(
        "conv4_registers.cu", (64,), 128, 32, ("-DCOLUMNS=32",)
    ),
    "4 register tile, 64 rows": Rung("conv4_registers.cu", (64,), 64, 64, ("-DTILE=64",)),
    "4 register tile, 64 rows, 32 columns": Rung(
        "conv4_registers.cu", (32,), 64, 32, ("-DTILE=64", "-DCOLUMNS=32")
    ),
    "6 tensor cores, half": Rung("conv6_tensor.cu", (128,), 64, 64, (), "float16"),
    "6 tensor cores, half, 32 columns": Rung(
        "conv6_tensor.cu", (128,), 128, 32, ("-DCOLUMNS=32",), "float16"
    ),
    "6 tensor cores, bfloat16": Rung("conv6_tensor.cu", (128,), 64, 64, ("-DBF16",), BFLOAT16),
    "6 tensor cores, bfloat16, 32 columns": Rung(
        "conv6_tensor.cu", (128,), 128, 32, ("-DBF16", "-DCOLUMNS=32"), BFLOAT16
    ),
    "6 tensor cores, TF32": Rung("conv6_tensor.cu", (128,), 64, 64, ("-DTF32",)),
    "6 tensor cores, TF32, 32 columns": Rung(
        "conv6_tensor.cu", (64,), 128, 32, ("-DTF32", "-DCOLUMNS=32")
    ),
}  # fmt: skip
NARROW = ", 32 columns"  # ends the name of the rung for few columns
TENSOR_CORES = {
    "fp16": "6 tensor cores, half", "bf16": "6 tensor cores, bfloat16",
    "tf32": "6 tensor cores, TF32",
}  # fmt: skip
MIN_CHANNELS = 16  # for tensor cores: below, most of a fragment would be zeros
SLICED_FORWARD = "conv4_registers.cu"  # whose forward may have slices
MIN_PIXELS = 256  # at least this many pixels per slice of gw
MAX_SLICES = 16  # of the forward's depth


class Sizes(NamedTuple):
    """A convolution's sizes, in the order in which kernels take them (SIZES in convolution.cuh).

    C, C_out: channels of x and of y. Kernels call C_out K. top, left: padding.
    """

    N: int
    H: int
    W: int
    C: int
    OH: int
    OW: int
    C_out: int
    KH: int
    KW: int
    stride: int
    top: int
    left: int

    @classmethod
    def of(
        cls, xs: Parts, w_shape: Sequence[int], stride: int, padding: Padding, up: int = 0
    ) -> "Sizes":
        """Return the sizes for x in parts; up: 1 to read x as upsampled to twice H and W."""
        N, H, W = xs[0].shape[0], xs[0].shape[1] << up, xs[0].shape[2] << up
        KH, KW, C, C_out = w_shape
        (top, bottom), (left, right) = padding
        OH, OW = (H + top + bottom - KH) // stride + 1, (W + left + right - KW) // stride + 1
        return cls(N, H, W, C, OH, OW, C_out, KH, KW, stride, top, left)

    @classmethod
    def linear(cls, xs: Parts, w_shape: Sequence[int]) -> "Sizes":
        """Return the sizes of the linear layer x w: x [..., C] in parts, w [C, C_out]."""
        C, C_out = w_shape
        shape = xs[0].shape[:-1]
        # Rows of several images are summed image by image for the gradient of the bias.
        N = shape[0] if len(shape) > 1 else 1
        rows = math.prod(shape) // max(1, N)
        return cls(N, 1, rows, C, 1, rows, C_out, 1, 1, 1, 0, 0)

    @property
    def window(self) -> int:
        """The depth of the forward's matrix product."""
        return self.KH * self.KW * self.C

    @property
    def pixels(self) -> int:
        """The pixels of y, of all images together."""
        return self.N * self.OH * self.OW


def available_rungs() -> dict[str, Rung]:
    """Return those of RUNGS that the GPU in use can run."""
    available = available_precisions(cupy().cuda)
    lacking = tuple(rung for name, rung in TENSOR_CORES.items() if name not in available)
    return {name: rung for name, rung in RUNGS.items() if not name.startswith(lacking)}


@cache
def multiprocessors(library: ModuleType) -> int:
    """Return the number of the GPU's multiprocessors."""
    return gpu.multiprocessors(library.cuda)


def register_tile(rows: int, *columns: int) -> Rung:
    """Return rung 4 with the largest tile that wastes little and of which there are enough.

    rows: of the largest result. columns: of all results, whose products take equally long.
    """
    wide, narrow = (sum(blocks(n, width) * width / n for n in columns) for width in (64, 32))
    width = NARROW if wide > 1.1 * narrow else ""
    large = RUNGS[f"4 register tile{width}"]
    tiles = blocks(rows, large.rows) * blocks(max(columns), large.columns)
    enough = tiles >= 2 * multiprocessors(cupy())
    return large if enough else RUNGS[f"4 register tile, 64 rows{width}"]


@cache
def depth_slices(tiles: int, warps: int, depth: int, count: int) -> int:
    """Return into how many slices to cut a product's depth, so that few tiles fill the GPU.

    warps: of a block. count: of multiprocessors. The time is estimated in iterations of the main
    loop. The warps of a quarter of a multiprocessor take turns; one alone uses half of the time.
    A block begins and ends in four iterations, writes its sums in two, and reads those of each
    slice in one. All slices run together: a multiprocessor's registers hold 12 warps, if blocks of
    one warp are not limited further (product.cuh).
    """

    def resident(slices: int) -> int:
        return blocks(tiles * slices, count) * warps

    def time(slices: int) -> int:
        iterations = blocks(depth, 8 * slices) + 4 + (2 + slices if slices > 1 else 0)
        return max(2, blocks(resident(slices), 4)) * iterations

    several = [n for n in range(2, MAX_SLICES + 1) if resident(n) <= 12]
    return min((1, *several), key=time)


def choose_rung(s: Sizes, rows: int, *columns: int, dtype: str = "float32") -> Rung:
    """Return the rung for a convolution of these sizes; rows, columns: as for register_tile.

    dtype: the type of x. Only one rung reads x of a 16-bit type, even if precision() has changed
    since x was stored.
    """
    tensor_cores = TENSOR_CORES.get(precision()) if min(s.C, s.C_out) >= MIN_CHANNELS else None
    if dtype != "float32":
        tensor_cores = next(name for name, rung in RUNGS.items() if rung.stored == dtype)
    if tensor_cores:
        # A backward (two products) of 32 columns is faster in tiles of 64 (docs/gpu.md).
        return RUNGS[tensor_cores + NARROW * (columns[0] <= 32 and len(columns) == 1)]
    return register_tile(rows, *columns)


def stored_as(s: Sizes) -> str:
    """Return the type in which to store an x that only this convolution reads (see Rung.stored)."""
    return choose_rung(s, s.pixels, s.C_out).stored


def options_of(rung: Rung, s: Sizes, xs: Parts = (), up: int = 0) -> tuple[str, ...]:
    """Return the compiler's options for the type of x, the stride, and upsampling."""
    stored = ("-DSTORED",) if xs and xs[0].dtype != "float32" else ()
    stride = (f"-DSTRIDE={s.stride}",) if s.stride != 1 else ()
    return (*rung.options, *stored, *stride, *("-DUP=1",) * up)


def forward(
    s: Sizes, xs: Parts, w: Array, bias: Array | None, y: Array, *, up: int = 0,
    shift: Array | None = None, extra: Array | None = None, rung: Rung | None = None,
) -> None:  # fmt: skip
    """Compute y = conv(x) + bias [C_out] + shift [N, C_out] + extra (of y's shape), into y."""
    rung = rung or choose_rung(s, s.pixels, s.C_out, dtype=xs[0].dtype)
    parts = two_parts(xs)
    grid, *sums = forward_grid(s, rung)
    if rung.file != SLICED_FORWARD:
        grid, sums = grid[:2], ()
    launch(
        rung.file, "conv2d", grid, rung.block, *parts, xs[0].shape[-1], w, bias, shift, extra, y,
        *s, vectors(s, xs, *parts, w, bias, shift, extra, y), *sums,
        options=options_of(rung, s, xs, up),
    )  # fmt: skip


def forward_grid(s: Sizes, rung: Rung) -> tuple[tuple[int, int, int], Array | None, Array]:
    """Return the grid of a forward, of which z are its slices, memory for their sums, counters."""
    grid = blocks(s.pixels, rung.rows), blocks(s.C_out, rung.columns)
    tiles, slices = math.prod(grid), 1
    if rung.file == SLICED_FORWARD:
        slices = depth_slices(tiles, rung.block[0] // 32, s.window, multiprocessors(cupy()))
    return (*grid, slices), _sums(rung, slices, tiles), counters(tiles)


def transposed(s: Sizes, x: Array, w: Array, bias: Array, y: Array) -> None:
    """Compute y = the transpose of the convolution s, applied to x, + bias, into y.

    It is the convolution's gradient of x, and the same kernel computes it.
    """
    pixels = s.N * s.H * s.W
    rung = choose_rung(s, pixels, s.C)
    grid = blocks(pixels, rung.rows), blocks(s.C, rung.columns)
    launch(
        *rung.kernel("conv2d_gradient_x"), grid, rung.block, x, w, None, None, bias, y, None, s.C,
        *s, vectors(s, (y,), x, w, bias, y), options=options_of(rung, s),
    )  # fmt: skip


class Gradients(NamedTuple):
    """gx in its parts (None if not needed), gw, gshift [N, C_out], gbias [C_out]."""

    gxs: tuple[Array, ...] | None
    w: Array
    shift: Array
    bias: Array


def backward(
    s: Sizes, gy: Array, xs: Parts, w: Array, *, up: int = 0, need_gx: bool = True,
    partial: Sequence[Array | None] = (), rung: Rung | None = None, need_gw: bool = True,
) -> Gradients:  # fmt: skip
    """Return all gradients, from one launch of rung 4 or 6; partial is added to gxs.

    A gradient that is not needed is None, or undefined if it is gw.
    """
    xp = cupy()
    pixels = s.N * (s.H >> up) * (s.W >> up)
    rung = rung or choose_rung(s, pixels, s.C, s.C_out, dtype=xs[0].dtype)
    gxs = tuple(xp.empty(x.shape, "float32") for x in xs) if need_gx else None
    gw, gshift, gbias = (xp.empty(n, "float32") for n in (w.shape, (s.N, s.C_out), s.C_out))
    tiles_x = blocks(pixels, rung.rows) * blocks(s.C, rung.columns) if need_gx else 0
    tiles_w = blocks(s.window, rung.rows) * blocks(s.C_out, rung.columns) if need_gw else 0
    slices, parts = weight_slices(s, rung, tiles_w)
    groups = blocks(s.C_out, 32)
    launch(
        *rung.kernel("conv2d_gradients"), (tiles_w * slices + s.N * groups + tiles_x,), rung.block,
        gy, *two_parts(xs), xs[0].shape[-1], w, *two_parts(partial), *two_parts(gxs or ()), gw,
        gshift, gbias, parts, counters(tiles_w + groups), tiles_w, slices, *s,
        vectors(s, xs, gy, *xs, w, *partial), options=options_of(rung, s, xs, up),
    )  # fmt: skip
    return Gradients(gxs, gw, gshift, gbias)


def sum_pixels(gy: Array) -> tuple[Array, Array]:
    """Return gy [N, H, W, C] summed over the pixels of each image, [N, C], and over all, [C].

    Rung 4's backward has three kinds of blocks; this launches only the blocks that sum pixels.
    """
    N, C = gy.shape[0], gy.shape[3]
    s = Sizes.of((gy,), (1, 1, C, C), 1, ((0, 0), (0, 0)))
    gshift, gbias = (cupy().empty(shape, "float32") for shape in ((N, C), C))
    rung, groups = register_tile(s.pixels, C), blocks(C, 32)
    none = (None,) * 2
    launch(
        *rung.kernel("conv2d_gradients"), (N * groups,), rung.block, gy, *none, 0, None, *none,
        *none, None, gshift, gbias, None, counters(groups), 0, 1, *s, aligned(gy),
        options=rung.options,
    )  # fmt: skip
    return gshift, gbias


def weight_slices(s: Sizes, rung: Rung, tiles: int) -> tuple[int, Array]:
    """Return how many slices of pixels each tile of gw is cut into, and memory for their sums.

    As many blocks as a multiprocessor's registers hold, of 128 threads, begin together, before
    those of other results.
    """
    together = (2 if rung.file == SLICED_FORWARD else 3) * multiprocessors(cupy())
    slices = min(blocks(together, max(1, tiles)), blocks(s.pixels, MIN_PIXELS))
    return slices, _sums(rung, slices, tiles)


def _sums(rung: Rung, slices: int, tiles: int) -> Array | None:
    """Return memory for the sums of all slices of all tiles; none if there is only one slice."""
    numbers = slices * tiles * rung.rows * rung.columns
    return cupy().empty(numbers, "float32") if slices > 1 else None


def separate_gradients(
    s: Sizes, gy: Array, xs: Parts, w: Array, rung: Rung, up: int = 0
) -> tuple[tuple[Array, ...], Array]:
    """Return gx in its parts, and gw, from the two kernels that every rung has."""
    xp = cupy()
    gxs = tuple(xp.empty(x.shape, "float32") for x in xs)
    gw, C1, pixels = xp.empty(w.shape, "float32"), xs[0].shape[-1], s.N * (s.H >> up) * (s.W >> up)
    for name, rows, columns, arrays in (
        ("conv2d_gradient_x", pixels, s.C, (gy, w, *(None,) * 3, *two_parts(gxs), C1)),
        ("conv2d_gradient_w", s.window, s.C_out, (gy, *two_parts(xs), C1, gw)),
    ):
        grid = blocks(rows, rung.rows), blocks(columns, rung.columns)
        vector, options = vectors(s, xs, gy, *xs, w), options_of(rung, s, xs, up)
        launch(*rung.kernel(name), grid, rung.block, *arrays, *s, vector, options=options)
    return gxs, gw


def two_parts(parts: Sequence[Array | None]) -> tuple[Array | None, Array | None]:
    """Return up to two parts as the pair that kernels take: None for a part that is absent."""
    return (*parts, *(None,) * (2 - len(parts)))


def vectors(s: Sizes, xs: Parts, *arrays: Array | None) -> bool:
    """Return whether kernels may fetch and store four numbers together."""
    return s.C % 4 == s.C_out % 4 == xs[0].shape[-1] % 4 == 0 and aligned(*arrays)
