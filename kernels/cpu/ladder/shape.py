"""The sizes of a convolution."""

from typing import NamedTuple


class Shape(NamedTuple):
    """The sizes of one convolution."""

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
    def of(cls, x_shape, w_shape, stride, padding):
        (top, bottom), (left, right) = padding
        N, H, WX, C = x_shape
        KH, KW, _, K = w_shape
        OH, OW = (H + top + bottom - KH) // stride + 1, (WX + left + right - KW) // stride + 1
        return cls(N, H, WX, C, OH, OW, K, KH, KW, stride, top, left)


SHAPE = len(Shape._fields)
