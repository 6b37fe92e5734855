"""A 3x3 convolution of stride 1 with the operations fused into it, and how its work is divided."""

from functools import cache
from typing import NamedTuple

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.memory import address, pairs
from minddpm.kernels.cpu.task import bits, integers
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES, ROWS

FEW_IMAGES = threads.PARTS  # with fewer the images of a backward are too few to be divided
# Tiles in a chunk: few enough that V and Z stay in the cache of a core.
TILES = 4 * ROWS if ROWS < 14 else 2 * ROWS
# Most floats of a piece's bordered images, measured; the backward holds each image twice.
CACHED, CACHED_BACKWARD = 300_000, 150_000
# Above this many bytes the transformed weights do not stay in the cache of a core, and reading them
# or adding to their gradient takes most of the time: pieces divide the weights, not the images.
MANY_WEIGHTS = 3 << 20
SHARED = 16 << 20  # most bytes of V and D in that case: they stay in the cache of all cores


class Layer(NamedTuple):
    """The sizes of one 3x3 convolution of stride 1 with the operations fused into it."""

    N: int
    H: int  # of the image that is convolved, after upsampling
    W: int
    C1: int  # channels of the first part of x
    C2: int  # channels of the second part, 0 if there is none
    OH: int
    OW: int
    C_out: int
    top: int
    left: int
    up: int  # 2 if x is upsampled first, else 1
    M: int  # height and width of an output tile
    together: int  # 1 if all pieces work on the same images, 0 if each has images of its own
    images: int  # how many images are computed at a time
    tiles: int  # tiles in a chunk; if together, all tiles of these images
    groups: int  # of the normalisation, 0 if there is none
    eps: int  # the bits of a float64: all fields are integers


class Sources(NamedTuple):
    """Addresses of the parts of x, and of the parameters and statistics of the normalisation."""

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
    """Addresses of the forward's other arrays, and steps in bytes."""

    u: int  # transformed weights
    bias: int  # [C_out'], one for each image or one for all
    bias_row: int
    extra: int  # [N, OH, OW, C_out] to be added, or 0
    y: int
    space: int  # a row for each thread
    space_row: int


class Backward(NamedTuple):
    """Addresses of the backward's other arrays, and steps in bytes."""

    gy: int
    ut: int  # transformed weights, transposed
    gx1: int  # the gradients of the parts of x
    gx2: int
    more1: int  # gradients to be added to these, or 0
    more2: int
    need_gx: int
    du: int  # [points, C', C_out'] for each piece, or for all if together
    du_row: int
    gb: int  # [N, C_out']: sums of gy over the pixels of each image
    gnorm: int  # [2, C'] for each piece: gweight and gbias of the normalisation
    gnorm_row: int
    space: int
    space_row: int


LAYER, SOURCES = len(Layer._fields), len(Sources._fields)
FORWARD, BACKWARD = len(Forward._fields), len(Backward._fields)


@serial
def forward_at(at):
    """Return the first arguments of a forward task: Layer, Sources, Forward."""
    return (
        Layer(*integers(at, LAYER)),
        Sources(*integers(at + 8 * LAYER, SOURCES)),
        Forward(*integers(at + 8 * (LAYER + SOURCES), FORWARD)),
    )


@serial
def backward_at(at):
    """Return the first arguments of a backward task: Layer, Sources, Backward."""
    return (
        Layer(*integers(at, LAYER)),
        Sources(*integers(at + 8 * LAYER, SOURCES)),
        Backward(*integers(at + 8 * (LAYER + SOURCES), BACKWARD)),
    )


@serial
def tile_counts(s):
    """Return the number of tiles of one image, down and across."""
    return (s.OH + s.M - 1) // s.M, (s.OW + s.M - 1) // s.M


@serial
def bordered_size(s):
    """Return (height, width, channels) of the zero-bordered image: complete tiles and pairs."""
    TH, TW = tile_counts(s)
    return TH * s.M + 2, TW * s.M + 2, pairs(s.C1 + s.C2) * LANES


@serial
def block_size(s):
    """Return the bytes from one block of LANES channels of V, Z or D to the next."""
    return (s.M + 2) * (s.M + 2) * s.tiles * BYTES


def layer(xs, w_shape, padding, M, up=1, groups=0, eps=0.0, backward=False) -> Layer:
    """Return the sizes of a convolution of the parts xs, upsampled first if up = 2."""
    N, H, W, C1 = xs[0].shape
    C2 = xs[1].shape[3] if len(xs) == 2 else 0
    sizes = N, H * up, W * up, C1, C2, w_shape[3]
    pieces = threads.parts(N) if backward else threads.pieces(N)
    return _layer(*sizes, padding, up, M, groups, eps, backward, pieces)


@cache  # a model has few layers, and calls them often
def _layer(N, H, W, C1, C2, C_out, padding, up, M, groups, eps, backward, pieces) -> Layer:
    (top, bottom), (left, right) = padding
    OH, OW = H + top + bottom - 2, W + left + right - 2
    s = Layer(
        N=N, H=H, W=W, C1=C1, C2=C2, OH=OH, OW=OW, C_out=C_out, top=top, left=left, up=up, M=M,
        together=0, images=1, tiles=TILES, groups=groups, eps=bits(eps),
    )  # fmt: skip
    (TH, TW), C, C_out = tile_counts(s), pairs(C1 + C2) * LANES, pairs(C_out) * LANES
    point = 4 * (M + 2) ** 2
    # With few images a backward would leave threads without work, too.
    if point * C * C_out <= MANY_WEIGHTS and not (backward and N < FEW_IMAGES):
        cached = CACHED_BACKWARD if backward else CACHED
        return s._replace(images=images_together(s, pieces, cached))
    images = max(1, min(N, SHARED // (point * TH * TW * (C + C_out))))
    return s._replace(together=1, images=images, tiles=-(-images * TH * TW // ROWS) * ROWS)


def images_together(s: Layer, pieces: int, cached: int) -> int:
    """Return how many images a piece computes at a time, so that few rows of tiles are empty.

    cached: limit of the bordered images in floats, exceeded if one chunk of tiles needs more.
    """
    (TH, TW), (PH, PW, Cp) = tile_counts(s), bordered_size(s)
    chunk = -(-s.tiles // (TH * TW))
    most = max(1, min(8, -(-s.N // pieces), max(cached // (PH * PW * Cp), chunk)))
    return min(range(1, most + 1), key=lambda n: -(-n * TH * TW // ROWS) * ROWS / n)
