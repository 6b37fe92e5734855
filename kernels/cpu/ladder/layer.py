"""A 3x3 convolution of stride 1 with what is folded into it: its sizes, and who takes how much."""

from functools import cache
from typing import NamedTuple

from numba import get_num_threads

from minddpm.kernels.cpu.memory import address, pairs, serial
from minddpm.kernels.cpu.task import bits, integers
from minddpm.kernels.cpu.vector.instructions import BYTES, ROWS, W

# Tiles in a chunk: few enough that V and Y stay in the cache of a core.
TILES = 4 * ROWS if ROWS < 14 else 2 * ROWS
# Floats of bordered pictures that a thread holds at a time, measured; the backward has them twice.
CACHED, CACHED_BACKWARD = 300_000, 150_000
# Bytes of transformed weights above which they do not stay there: to fetch them, or to add to their
# gradient, is then what costs most. So the threads share them, and work on the same pictures.
MANY_WEIGHTS = 3 << 20
SHARED = 16 << 20  # bytes of V and D of those pictures, which should stay in the shared cache


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
    together: int  # 1 if all threads work on the same images, 0 if each has its own
    images: int  # how many of them are taken at a time
    tiles: int  # how many tiles make a chunk: of all these images if together
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


class Forward(NamedTuple):
    """Addresses, and steps in bytes, of the rest of the forward."""

    u: int  # transformed weights
    bias: int  # [K'] for each image, or once for all
    bias_row: int
    extra: int  # [N, OH, OW, K] to be added, or 0
    y: int
    space: int  # a row for each thread
    space_row: int


class Backward(NamedTuple):
    """Addresses, and steps in bytes, of the rest of the backward."""

    gy: int
    ut: int  # transformed weights, turned
    gx1: int  # of the parts of x
    gx2: int
    need_gx: int
    du: int  # [points, C', K'] for each thread, or for all if together
    du_row: int
    gb: int  # [N, K']: sums of gy over the pixels of each image
    gnorm: int  # [2, C'] for each thread: gweight and gbias of the normalisation
    gnorm_row: int
    space: int
    space_row: int


LAYER, SOURCES = len(Layer._fields), len(Sources._fields)
FORWARD, BACKWARD = len(Forward._fields), len(Backward._fields)


@serial
def forward_at(at):
    """The three with which a task's arguments begin, forward."""
    return (
        Layer(*integers(at, LAYER)),
        Sources(*integers(at + 8 * LAYER, SOURCES)),
        Forward(*integers(at + 8 * (LAYER + SOURCES), FORWARD)),
    )


@serial
def backward_at(at):
    """And backward."""
    return (
        Layer(*integers(at, LAYER)),
        Sources(*integers(at + 8 * LAYER, SOURCES)),
        Backward(*integers(at + 8 * (LAYER + SOURCES), BACKWARD)),
    )


@serial
def tile_counts(s):
    """Tiles of one picture, down and across."""
    return (s.OH + s.M - 1) // s.M, (s.OW + s.M - 1) // s.M


@serial
def bordered_size(s):
    """(height, width, channels) of the zero-bordered picture: whole tiles, whole pairs."""
    TH, TW = tile_counts(s)
    return TH * s.M + 2, TW * s.M + 2, pairs(s.C1 + s.C2) * W


@serial
def block_size(s):
    """Bytes from one block of W channels of V, Y or D to the next."""
    return (s.M + 2) * (s.M + 2) * s.tiles * BYTES


def layer(xs, w_shape, padding, M, up=1, groups=0, eps=0.0, backward=False) -> Layer:
    """The sizes of a convolution of the parts xs, doubled first if up = 2."""
    N, H, WX, C1 = xs[0].shape
    C2 = xs[1].shape[3] if len(xs) == 2 else 0
    sizes = N, H * up, WX * up, C1, C2, w_shape[3]
    return _layer(*sizes, padding, up, M, groups, eps, backward, get_num_threads())


@cache  # as a model has few layers, and calls them often
def _layer(N, H, WX, C1, C2, K, padding, up, M, groups, eps, backward, threads) -> Layer:
    (top, bottom), (left, right) = padding
    OH, OW = H + top + bottom - 2, WX + left + right - 2
    s = Layer(N, H, WX, C1, C2, OH, OW, K, top, left, up, M, 0, 1, TILES, groups, bits(eps))
    (TH, TW), C, K = tile_counts(s), pairs(C1 + C2) * W, pairs(K) * W
    point = 4 * (M + 2) ** 2
    # A backward of fewer pictures than threads, too, would leave threads without work.
    if point * C * K <= MANY_WEIGHTS and not (backward and threads > N):
        cached = CACHED_BACKWARD if backward else CACHED
        return s._replace(images=images_together(s, threads, cached))
    images = max(1, min(N, SHARED // (point * TH * TW * (C + K))))
    return s._replace(together=1, images=images, tiles=-(-images * TH * TW // ROWS) * ROWS)


def images_together(s: Layer, threads: int, cached: int) -> int:
    """How many images a thread takes at a time, so that few rows of the last product are empty.

    cached: floats that the bordered images may take, unless they have less than a chunk of tiles.
    """
    (TH, TW), (PH, PW, Cp) = tile_counts(s), bordered_size(s)
    chunk = -(-s.tiles // (TH * TW))
    most = max(1, min(8, -(-s.N // threads), max(cached // (PH * PW * Cp), chunk)))
    return min(range(1, most + 1), key=lambda n: -(-n * TH * TW // ROWS) * ROWS / n)
