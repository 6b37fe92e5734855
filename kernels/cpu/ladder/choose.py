"""The convolution, rung by rung, and the table that says which rung computes which shape.

    python -m minddpm.kernels.cpu          prints the table and the UNet's rungs

All rungs compute kernels.reference.conv2d; read them in order, each adds one idea:

    1 plain loops      conv1_loops.py       the definition
    2 patches + GEMM   kernels/reference/   every window copied into a row, one product (BLAS)
    3 implicit GEMM    conv3_implicit.py    the same product in registers, no window copied
    4 Winograd F(2x2)  conv4_winograd.py    16 multiplications instead of 36
    5 Winograd F(4x4)  the same file        36 instead of 144
    6 fused            conv6_fused.py       with norm, SiLU, concatenation, upsampling, residual

With a window of one pixel a convolution is already a matrix product: matrix_product.py.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from minddpm.kernels import reference
from minddpm.kernels.cpu import matrix_product
from minddpm.kernels.cpu.arrange import summed
from minddpm.kernels.cpu.ladder import conv1_loops, conv3_implicit
from minddpm.kernels.cpu.ladder import conv4_winograd as winograd
from minddpm.kernels.cpu.ladder.layer import Sources, layer
from minddpm.kernels.cpu.memory import empty
from minddpm.kernels.shapes import SAME, Padding

Shape = tuple[int, ...]  # x [N, H, W, C], w [KH, KW, C, C_out]


class Rung(NamedTuple):
    """One way to compute a convolution.

    forward(x, w, b, stride, padding) -> y
    backward(gy, x, w, stride, padding, need_gx) -> gx, gw, gb
    fits(x_shape, w_shape, stride, padding) -> whether it can compute this convolution
    """

    forward: Callable[..., np.ndarray]
    backward: Callable[..., tuple[Any, np.ndarray, np.ndarray]]
    fits: Callable[[Shape, Shape, int, Padding], bool]


def _winograd(M: int, x, w, b, stride, padding):
    return winograd.forward(layer((x,), w.shape, padding, M), Sources.of((x,)), w, b)


def _winograd_backward(M: int, gy, x, w, stride, padding, need_gx=True):
    gxs = (empty(x.shape),) if need_gx else ()
    s = layer((x,), w.shape, padding, M, backward=True)
    gw, gb, _ = winograd.backward(s, Sources.of((x,)), gy, w, gxs)
    return (gxs[0] if need_gx else None), gw, summed(gb)


def _product(x, w, b, stride, padding):
    return matrix_product.forward((x,), w[0, 0], b)


def _product_backward(gy, x, w, stride, padding, need_gx=True):
    (gx,), gw, gb = matrix_product.backward(gy, (x,), w[0, 0])
    return gx, gw[None, None], gb


def always(x_shape: Shape, w_shape: Shape, stride: int, padding: Padding) -> bool:
    return True


def is_3x3(x_shape: Shape, w_shape: Shape, stride: int, padding: Padding) -> bool:
    return w_shape[:2] == (3, 3) and stride == 1 and max(max(p) for p in padding) <= 2


def is_product(x_shape: Shape, w_shape: Shape, stride: int, padding: Padding) -> bool:
    return w_shape[:2] == (1, 1) and stride == 1 and not any(map(any, padding))


def is_wide_3x3(x_shape: Shape, w_shape: Shape, stride: int, padding: Padding) -> bool:
    # With fewer channels most of each vector is padding: the transforms cost more than they save.
    return is_3x3(x_shape, w_shape, stride, padding) and min(w_shape[2:]) >= 8


def has_few_tiles(x_shape: Shape, w_shape: Shape, stride: int, padding: Padding) -> bool:
    # With few tiles each transformed weight is rarely used, and F(2x2) has fewer of them.
    return (
        is_wide_3x3(x_shape, w_shape, stride, padding)
        and x_shape[0] * -(-x_shape[1] // 4) * -(-x_shape[2] // 4) <= 16
    )


LADDER: dict[str, Rung] = {
    "1 plain loops": Rung(conv1_loops.conv2d, conv1_loops.conv2d_backward, always),
    "2 patches + GEMM": Rung(reference.conv2d, reference.conv2d_backward, always),
    "3 implicit GEMM": Rung(conv3_implicit.conv2d, conv3_implicit.conv2d_backward, always),
    "4 Winograd F(2x2)": Rung(partial(_winograd, 2), partial(_winograd_backward, 2), is_3x3),
    "5 Winograd F(4x4)": Rung(partial(_winograd, 4), partial(_winograd_backward, 4), is_3x3),
    "matrix product": Rung(_product, _product_backward, is_product),
}


class Choice(NamedTuple):
    """A condition on the shape, and the rung that computes such shapes."""

    condition: str
    fits: Callable[[Shape, Shape, int, Padding], bool]
    rung: str


# The first line that fits is chosen.
CHOICES = (
    Choice("window 1x1, stride 1, no padding", is_product, "matrix product"),
    Choice("window 3x3, stride 1, 8 channels or more, up to 16 tiles of 4x4 pixels in all images",
           has_few_tiles, "4 Winograd F(2x2)"),
    Choice("window 3x3, stride 1, 8 channels or more", is_wide_3x3, "5 Winograd F(4x4)"),
    Choice("anything else", always, "3 implicit GEMM"),
)  # fmt: skip


def chosen(x_shape: Shape, w_shape: Shape, stride: int, padding: Padding) -> str:
    """Return the name of the rung for a convolution."""
    return next(c.rung for c in CHOICES if c.fits(x_shape, w_shape, stride, padding))


def choose(x_shape: Shape, w_shape: Shape, stride: int, padding: Padding) -> Rung:
    """Return the rung for a convolution."""
    return LADDER[chosen(x_shape, w_shape, stride, padding)]


def fused_tile(x_shape: Shape, w_shape: Shape) -> int:
    """Return M, the height and width of the Winograd tiles of rung 6."""
    return 2 if has_few_tiles(x_shape, w_shape, 1, SAME) else 4
