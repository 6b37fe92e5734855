"""Muon: each launch computes one product, or one pass over memory, for all matrices (muon.cu)."""

from itertools import accumulate

import numpy as np

from minddpm.kernels import reference
from minddpm.kernels.cuda.ladder import RUNGS
from minddpm.kernels.cuda.launch import blocks, cupy, empty, launch, table
from minddpm.kernels.cuda.optimizer import number
from minddpm.kernels.float32 import contiguous_float32
from minddpm.kernels.reference.muon import EPS, ITERATIONS, A, B, C

FILE = "muon.cu"
TILE = RUNGS["4 register tile, 64 rows"]  # which computes the products
MATRICES = 128  # of a launch, in muon.cu, too: all arguments have at most 4 KB
MATRIX = np.dtype([(name, "i4") for name in ("start", "rows", "columns", "x", "square")])


def muon(
    param, grad, momentum, average, layout, lr, beta: float, weight_decay: float, grad_scale,
    ema_decay,
):  # fmt: skip
    numbers = lr, beta, weight_decay, grad_scale, ema_decay
    if not contiguous_float32(param, grad, momentum, average):
        reference.muon(param, grad, momentum, average, layout, *numbers)
        return
    for i in range(0, len(layout), MATRICES):
        _muon(param, grad, momentum, average, layout[i : i + MATRICES], *numbers)


def _muon(param, grad, momentum, average, layout, lr, beta, weight_decay, grad_scale, ema_decay):
    """Take the step for up to MATRICES matrices."""
    count, lengths, widths = len(layout), layout[:, 1:].max(1), layout[:, 1:].min(1)
    x_starts, square_starts = _starts(lengths * widths), _starts(widths * widths)
    lines = zip(*layout.T, x_starts[:-1], square_starts[:-1], strict=True)
    matrices = table("matrix", MATRIX, MATRICES, lines)
    grad_scale = number(np.float32, grad_scale)
    (x,) = empty(x_starts[-1])
    gram, half, p, q, next_q = empty(*[square_starts[-1]] * 5)

    grid = min(blocks(max(lengths * widths), 1024), 256), count
    parts = cupy().empty(grid[::-1], "float64")
    changing = *grad_scale, float(beta)
    launch(FILE, "muon_momentum", grid, (256,), grad, momentum, matrices, parts, *changing)
    launch(FILE, "muon_start", grid, (256,), grad, momentum, matrices, parts, x, *changing, EPS)

    across = blocks(max(widths), TILE.columns)
    grid = blocks(max(widths), TILE.rows), across, count

    def product(left, right, result):
        launch(FILE, "muon_product", grid, TILE.block, left, right, result, matrices)

    launch(FILE, "muon_gram", grid, TILE.block, x, gram, matrices)
    for i in range(ITERATIONS):
        to = p if i else q  # the first Q is the first P
        launch(FILE, "muon_polynomial", grid, TILE.block, gram, to, matrices, A, B, C)
        if i:
            product(q, p, next_q)
            q, next_q = next_q, q
        if i + 1 < ITERATIONS:
            product(gram, to, half)
            product(half, to, gram)
    launch(
        FILE, "muon_step", (blocks(max(lengths), TILE.rows), across, count), TILE.block, x, q,
        param, average, matrices, *grad_scale, *number(np.float64, lr),
        *number(np.float64, ema_decay), np.float64(weight_decay),
    )  # fmt: skip


def _starts(sizes):
    """Return where each part begins, at a multiple of 16 bytes, and the size of all together."""
    return list(accumulate((blocks(int(n), 4) * 4 for n in sizes), initial=0))
