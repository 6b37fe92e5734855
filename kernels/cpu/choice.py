"""Which rung computes which convolution."""

import numpy as np

from minddpm.kernels.reference import Padding

FUSED_TILE = 4  # pixels of a Winograd tile in each direction


def is_product(w: np.ndarray, stride: int, padding: Padding) -> bool:
    """A window of one pixel: a linear layer over the pixels."""
    return w.shape[:2] == (1, 1) and stride == 1 and not any(map(any, padding))


def use_winograd(w: np.ndarray, stride: int, padding: Padding) -> bool:
    """3x3 windows of stride 1 between enough channels to fill the vectors."""
    KH, KW, C, K = w.shape
    enough = min(C, K) >= 8
    return (KH, KW, stride) == (3, 3, 1) and enough and max(max(p) for p in padding) <= 2
