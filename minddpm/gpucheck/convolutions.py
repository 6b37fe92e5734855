"""The convolutions that are checked and timed: sizes, numbers that no rung rounds, tolerances."""

from typing import NamedTuple

import numpy as np

from minddpm.kernels.cuda.ladder import RUNGS, TENSOR_CORES, Rung
from minddpm.kernels.shapes import SAME, Padding

# Tolerances: float32 sums in another order; Winograd's transforms, in which numbers nearly cancel.
SUMS, WINOGRAD = 1e-5, 3e-5
# Tensor cores add at least GROUP products in one step, and each step cuts off up to ULP of the sum
# (kernels/emulator/machine/tensor_sums.h): the error grows with the number of steps.
GROUP, ULP = 4, 2.0**-23
TENSOR_RUNGS = [
    rung for name, rung in RUNGS.items() if name.startswith(tuple(TENSOR_CORES.values()))
]
NONE = ((0, 0), (0, 0))


class Convolution(NamedTuple):
    """The sizes of a convolution: N images of H x W with C channels, a window of KH x KW."""

    N: int
    H: int
    W: int
    C: int
    C_out: int
    KH: int = 3
    KW: int = 3
    stride: int = 1
    padding: Padding = SAME

    @property
    def depth(self) -> int:
        """The most products that are added for a number of y, gx or gw."""
        return max(self.KH * self.KW * max(self.C, self.C_out), self.N * self.H * self.W)

    def arrays(self) -> list[np.ndarray]:
        """Return random x, w, b, gy, shift [N, C_out] and extra (of y's shape)."""
        (top, bottom), (left, right) = self.padding
        OH = (self.H + top + bottom - self.KH) // self.stride + 1
        OW = (self.W + left + right - self.KW) // self.stride + 1
        x, w = (self.N, self.H, self.W, self.C), (self.KH, self.KW, self.C, self.C_out)
        y = (self.N, OH, OW, self.C_out)
        return draw(0, x, w, self.C_out, y, (self.N, self.C_out), y)


AWKWARD = (
    Convolution(2, 7, 5, 3, 5),
    Convolution(1, 14, 14, 8, 66),
    Convolution(1, 15, 19, 8, 12),  # whole vectors; gw in slices, by ladder.MIN_PIXELS
    Convolution(1, 1, 1, 20, 1),
    Convolution(2, 5, 6, 17, 8, 3, 2, 2, ((0, 1), (2, 0))),
    Convolution(2, 9, 9, 8, 8, 1, 1, 2, NONE),
)
COLUMN = Convolution(1, 23, 25, 8, 1)  # gw of column.py in slices
REAL = (  # sizes of the small UNet, and two others
    Convolution(4, 28, 28, 32, 32),
    Convolution(4, 28, 28, 32, 32, stride=2),
    Convolution(4, 28, 28, 1, 32),
    Convolution(16, 7, 7, 128, 64),
    Convolution(3, 33, 33, 5, 5),
    Convolution(2, 9, 7, 256, 260),  # enough channels for Winograd
)


def convolutions(quick: bool) -> tuple[Convolution, ...]:
    """Return the awkward convolutions and, unless quick, the real ones."""
    return AWKWARD if quick else AWKWARD + REAL


def draw(seed: int, *shapes: int | tuple[int, ...]) -> list[np.ndarray]:
    """Return standard normals, float32, one array of each shape."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def rounded(x: np.ndarray, stored: str = "float16") -> np.ndarray:
    """Return float32 x, rounded to the type that a rung stores, so that the rung rounds nothing."""
    return widened(narrowed(x, "float16" if stored == "float32" else stored))


def narrowed(x: np.ndarray, stored: str) -> np.ndarray:
    """Return x as type `stored`; "uint16" holds the 16 bits of x truncated to bfloat16."""
    if stored == "uint16":
        return (x.view(np.uint32) >> 16).astype(np.uint16)
    return x.astype(stored)


def widened(x: np.ndarray) -> np.ndarray:
    """Return the same numbers as float32."""
    if x.dtype == np.uint16:
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32)


def sums_tolerance(rung: Rung, depth: int) -> float:
    """Return the tolerance of sums of `depth` products, computed by a rung of the convolution."""
    return SUMS + depth / GROUP * ULP if rung in TENSOR_RUNGS else SUMS
