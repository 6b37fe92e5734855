"""How evenly rung 4's blocks keep a GPU busy: a table by simulation (schedule.py)."""

import unittest.mock as mock

from cases import CONVOLUTIONS, TABLE_BATCH
from minddpm.kernels.cuda import ladder
from minddpm.kernels.cuda.analysis import schedule
from minddpm.kernels.cuda.analysis.occupancy import resident_blocks
from minddpm.kernels.cuda.analysis.roofline import CARDS, Card
from minddpm.kernels.cuda.analysis.schedule import Block

FORWARD, BACKWARD = 168, 254  # registers of rung 4, at most
BEGIN_AND_END = 4  # of a block, in iterations


def schedules() -> tuple[list[str], list[list[str]]]:
    """Return how busy rung 4 keeps each card's multiprocessors, by simulation (schedule.py)."""
    rows = []
    for card in CARDS:
        # ladder.py asks for a GPU's number of multiprocessors, and for memory
        gpu = {"multiprocessors": lambda _, n=card.multiprocessors: n, "cupy": mock.MagicMock()}
        for name, (H, C, K) in CONVOLUTIONS.items():
            sizes = ladder.Sizes(TABLE_BATCH, H, H, C, H, H, K, 3, 3, 1, 1, 1)
            with mock.patch.multiple(ladder, **gpu):
                cells = *_forward(card, sizes), *_backward(card, sizes)
            rows.append([f"{card.name}: {name}", *cells])
    head = ["multiprocessors busy, %", "forward: tiles", "busy", "slices", "busy"]
    return [*head, "backward: blocks", "gx first", "gw first"], rows


def _busy(
    card: Card, products: int, rung: ladder.Rung, registers: int, kinds: list[tuple[int, int]]
) -> str:
    """Return the percentage; kinds: the number of blocks of each kind, and their iterations."""
    threads, stages = rung.block[0], 3 if card.architecture >= 80 else 2
    shared = stages * 8 * (rung.rows + rung.columns) * 4  # numbers of a depth of 8
    resident = resident_blocks(card.architecture, threads, registers, shared)
    blocks = [Block(threads // 32, its + BEGIN_AND_END) for n, its in kinds for _ in range(n)]
    time = schedule.time(blocks, card.multiprocessors, resident)
    iterations = products / (32 * 8 * 8 * 8)  # of a warp
    return f"{100 * iterations / (time * 4 * card.multiprocessors):.0f}"


def _forward(card: Card, s: ladder.Sizes) -> tuple[str, ...]:
    rung = ladder.register_tile(s.pixels, s.C_out)
    tiles = -(-s.pixels // rung.rows) * -(-s.C_out // rung.columns)
    slices = ladder.depth_slices(tiles, rung.block[0] // 32, s.window, card.multiprocessors)
    products = s.pixels * s.window * s.C_out
    busy = (
        _busy(card, products, rung, FORWARD, [(tiles * n, _iterations(s.window, n))])
        for n in (1, slices)
    )
    return f"{tiles}", next(busy), f"{slices}", next(busy)


def _backward(card: Card, s: ladder.Sizes) -> tuple[str, ...]:
    rung = ladder.register_tile(s.pixels, s.C, s.C_out)
    tiles_x = -(-s.pixels // rung.rows) * -(-s.C // rung.columns)
    tiles_w = -(-s.window // rung.rows) * -(-s.C_out // rung.columns)
    slices, _ = ladder.weight_slices(s, rung, tiles_w)
    gx = tiles_x, _iterations(9 * s.C_out, 1)
    gw = tiles_w * slices, _iterations(s.pixels, slices)
    products = 2 * s.pixels * s.window * s.C_out
    orders = ([gx, gw], [gw, gx])
    return f"{gx[0]} + {gw[0]}", *(_busy(card, products, rung, BACKWARD, k) for k in orders)


def _iterations(depth: int, slices: int) -> int:
    """Return the iterations for a slice, with those that its sums count as (depth_slices)."""
    return -(-depth // (8 * slices)) + (2 + min(slices, 16) if slices > 1 else 0)
