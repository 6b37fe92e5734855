"""A 3x3 convolution of stride 1 with what is folded into it: its sizes, and who takes how much."""

from typing import NamedTuple

import numpy as np
from numba import get_num_threads

from minddpm.kernels.cpu.memory import address, pairs, serial
from minddpm.kernels.cpu.norm import CHANNEL_ROWS
from minddpm.kernels.cpu.vector import BYTES, ROWS, W

# Tiles in a chunk: few enough that V and Y stay in the cache. Of 256 channels they do not anyway,
# and what costs most is to fetch the weights, or their gradient, once for each chunk.
TILES = 4 * ROWS if ROWS < 14 else 2 * ROWS


class Layer(NamedTuple):
    """The sizes of one 3x3 convolution of stride 1 with what is folded into it."""

    N: int
    H: int  # of the picture that is convolved
    W: int
    C1: int  # channels of the first part of x,
    C2: int  # and of the second, 0 if there is none
    OH: int
    OW: int
    K: int
    top: int
    left: int
    up: int  # 2 if every pixel of x is doubled first, else 1
    M: int  # pixels of an output tile in each direction
    tiles: int  # how many of them make a chunk
    images: int  # how many a thread takes together
    groups: int  # of the normalisation, 0 if there is none
    eps: int  # the bits of a float64: all fields are integers


class Sources(NamedTuple):
    """Addresses of the parts of x, and of what the normalisation needs and keeps."""

    x1: int
    x2: int
    weight: int
    bias: int
    mean: int  # [N, G]
    rstd: int

    @classmethod
    def of(cls, xs, weight=None, bias=None, mean=None, rstd=None):
        second = xs[1] if len(xs) == 2 else None
        return cls(*(address(a) for a in (xs[0], second, weight, bias, mean, rstd)))


@serial
def bordered_size(s):
    """(height, width, channels) of the zero-bordered picture: whole tiles, whole pairs."""
    tiles_h, tiles_w = (s.OH + s.M - 1) // s.M, (s.OW + s.M - 1) // s.M
    return tiles_h * s.M + 2, tiles_w * s.M + 2, pairs(s.C1 + s.C2) * W


LAYER, SOURCES = len(Layer._fields), len(Sources._fields)


@serial
def tile_counts(s):
    """Tiles of one picture, down and across."""
    return (s.OH + s.M - 1) // s.M, (s.OW + s.M - 1) // s.M


@serial
def block_size(s):
    """Bytes from one block of W channels of V, Y or D to the next."""
    return (s.M + 2) * (s.M + 2) * s.tiles * BYTES


def layer(xs, w_shape, padding, M, up=1, groups=0, eps=0.0) -> Layer:
    """The sizes of a convolution of the parts xs, doubled first if up = 2."""
    (top, bottom), (left, right) = padding
    N, H, WX = (n * f for n, f in zip(xs[0].shape[:3], (1, up, up), strict=True))
    C1, C2 = xs[0].shape[3], xs[1].shape[3] if len(xs) == 2 else 0
    OH, OW = H + top + bottom - 2, WX + left + right - 2
    bits = int(np.float64(eps).view(np.int64))
    C, K = w_shape[2:]
    tiles = TILES * (4 if min(C, K) >= 256 else 1)
    s = Layer(N, H, WX, C1, C2, OH, OW, K, top, left, up, M, tiles, 1, groups, bits)
    return s._replace(images=images_together(s))


def images_together(s: Layer) -> int:
    """How many images to take together, so that few rows of the last product are empty."""
    (TH, TW), (PH, PW, Cp) = tile_counts(s), bordered_size(s)
    cached, chunk = 100_000 // (PH * PW * Cp), -(-s.tiles // (TH * TW))
    share = -(-s.N // get_num_threads())
    most = max(1, min(8, share, max(cached, chunk)))
    return min(range(1, most + 1), key=lambda n: -(-n * TH * TW // ROWS) * ROWS / n)


def floats_needed(s: Layer, backward: bool) -> int:
    """What one thread needs; see conv4_winograd.py."""
    (TH, TW), (PH, PW, Cp) = tile_counts(s), bordered_size(s)
    Kp, tile = pairs(s.K) * W, s.M * s.M
    chunk = CHANNEL_ROWS * Cp + (Cp + Kp) // W * (block_size(s) // 4)
    picture = PH * PW * Cp
    if backward:
        return chunk + 2 * W + s.images * (2 * picture + TH * TW * tile * Kp)
    return chunk + W + tile * Kp + s.images * picture
