"""The sizes of a convolution, as one argument of a compiled function."""

from typing import NamedTuple


class Shape(NamedTuple):
    """The sizes of a convolution: x [N, H, W, C], w [KH, KW, C, C_out], y [N, OH, OW, C_out]."""

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
    def of(cls, x_shape, w_shape, stride, padding):
        (top, bottom), (left, right) = padding
        N, H, W, C = x_shape
        KH, KW, _, C_out = w_shape
        OH, OW = (H + top + bottom - KH) // stride + 1, (W + left + right - KW) // stride + 1
        return cls(N, H, W, C, OH, OW, C_out, KH, KW, stride, top, left)


SHAPE = len(Shape._fields)
