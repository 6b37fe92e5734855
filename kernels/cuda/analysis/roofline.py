"""Lower bounds on a convolution's time on a card, calculated from data-sheet numbers.

Nothing here is measured. A kernel takes at least the time of its arithmetic at the card's peak, and
at least the time of its bytes at the bandwidth of the card's memory; the longer one is its floor
(Williams, Waterman and Patterson 2009). An array counts once for each kernel that reads or writes
it. Data that the previous kernel left in the L2 cache costs less, so a sequence of kernels on small
arrays can be faster than the sum of its floors.
"""

import math
from typing import NamedTuple

from minddpm.kernels.cuda.analysis.mainloop import FMA_CYCLES, PARTITIONS, Loop

WORD = 4  # bytes of a float32


class Card(NamedTuple):
    """A GPU by its data sheet: peaks at boost clock, without sparsity.

    multiprocessors: their number. fp32, tf32, fp16: TFLOP/s, the last two of tensor cores with sums
    in float32; tf32 is None if the card has none. bandwidth: GB/s. cache: L2, MB.
    """

    name: str
    architecture: int
    multiprocessors: int
    fp32: float
    tf32: float | None
    fp16: float
    bandwidth: float
    cache: int
    source: str

    @property
    def clock(self) -> float:
        """Cycles per second: a multiprocessor has 64 or 128 lanes, each with a multiply-add."""
        lanes = 128 / FMA_CYCLES.get(self.architecture, 1)
        return 1e12 * self.fp32 / (2 * lanes * self.multiprocessors)

    @property
    def balance(self) -> float:
        """float32 operations per byte of memory; below this, memory sets the time."""
        return 1e3 * self.fp32 / self.bandwidth


CARDS = (
    Card("T4", 75, 40, 8.1, None, 65, 320, 4, "T4 data sheet, Turing white paper"),
    Card("A100", 80, 108, 19.5, 156, 312, 2039, 40, "A100 data sheet, the SXM card with 80 GB"),
    Card("RTX 4090", 89, 128, 82.6, 82.6, 165.2, 1008, 72, "Ada white paper, appendix A"),
    Card(
        "H100",
        90,
        132,
        66.9,
        494.7,
        989.4,
        3350,
        50,
        "H100 data sheet, Hopper white paper, the SXM card",
    ),
)


class Layer(NamedTuple):
    """A convolution with a 3 x 3 window, stride 1: N images, H x H, C channels in, K out."""

    N: int
    H: int
    C: int
    K: int

    @property
    def flops(self) -> int:
        """Multiplications and additions of the definition."""
        return 2 * 9 * self.C * self.K * self.N * self.H**2


class Floor(NamedTuple):
    """The least time of one kernel in seconds, for its arithmetic and for its bytes."""

    arithmetic: float
    memory: float

    @property
    def seconds(self) -> float:
        return max(self)


def floor(card: Card, flops: float, words: float, peak: float) -> Floor:
    """Return the floor of a kernel that moves `words` float32 numbers; peak: TFLOP/s."""
    return Floor(flops / peak / 1e12, words * WORD / card.bandwidth / 1e9)


def direct(card: Card, layer: Layer, peak: float, stored: int = WORD) -> Floor:
    """Return the floor of the definition as one kernel (implicit GEMM): x, w and y move once.

    peak: TFLOP/s. stored: bytes of a number of x; w and y are always float32.
    """
    N, H, C, K = layer
    words = N * H**2 * (C * stored / WORD + K) + 9 * C * K
    return floor(card, layer.flops, words, peak)


def tensor_cores(
    card: Card, layer: Layer, loop: Loop, peak: float, rows: int, columns: int, warps: int
) -> float:
    """Return the least time of the main loop of tensor.cuh, in seconds: no unit can do it faster.

    peak: TFLOP/s of the tensor cores. rows, columns: of a block's tile, of which results beyond the
    edges are computed, too. warps: of a block.
    """
    depth = loop.products * warps // (rows * columns)
    sizes = (layer.N * layer.H**2, rows), (layer.K, columns), (9 * layer.C, depth)
    products = math.prod(-(-size // of_tile) * of_tile for size, of_tile in sizes)
    rounds = products / loop.products / (PARTITIONS * card.multiprocessors)
    return max(2 * products / peak / 1e12, rounds * max(loop.cycles.values()) / card.clock)


def winograd(card: Card, layer: Layer) -> list[Floor]:
    """Return floors of F(4x4), conv5_winograd.cu: V = B^T x B, U = G w G^T, M = V U, y = A^T M A.

    Only the bytes of the transforms count: they do one or two operations per byte.
    """
    N, H, C, K = layer
    tiles = N * (-(-H // 4)) ** 2
    x, w, y = N * H**2 * C, 9 * C * K, N * H**2 * K
    V, U, M = 36 * tiles * C, 36 * C * K, 36 * tiles * K
    return [
        floor(card, 0, x + V, card.fp32),
        floor(card, 0, w + U, card.fp32),
        floor(card, 2 * 36 * tiles * C * K, V + U + M, card.fp32),
        floor(card, 0, M + y, card.fp32),
    ]


def winograd_seconds(card: Card, layer: Layer) -> float:
    """Return the sum of the floors of F(4x4)'s kernels, which run one after another."""
    return sum(floor.seconds for floor in winograd(card, layer))


def crossing(card: Card, N: int, H: int, most: int = 4096) -> int | None:
    """Return the smallest C = K above which F(4x4) always has a lower floor than the definition.

    Both in float32, for C up to `most`; None if there is no such C.
    """
    found = None
    for channels in range(most, 0, -1):
        layer = Layer(N, H, channels, channels)
        if winograd_seconds(card, layer) >= direct(card, layer, card.fp32).seconds:
            break
        found = channels
    return found
