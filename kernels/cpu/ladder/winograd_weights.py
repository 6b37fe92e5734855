"""Winograd's transforms of weights, U = G w G^T, and of their gradient, gw = G^T dU G.

The layout of U fits the register tile: [pairs of C_out, points, C', 2 LANES], lines beyond C zero.
"""

import numpy as np

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.arrange import summed
from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.ladder.winograd_tiles import w_from_2, w_from_4, w_to_2, w_to_4
from minddpm.kernels.cpu.memory import address, clear, empty, items, pairs, workspace
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES
from minddpm.kernels.cpu.vector.lanes import to_lanes


@serial
def _to_points(M, taps, tap, u, line, column, lines):
    """Transform a vector of each of 9 taps to (line, column) of u; if taps = 0, store zeros."""
    point = lines * 2 * BYTES
    to = u + (column // (2 * LANES) * (M + 2) * (M + 2) * lines + line) * 2 * BYTES
    to += column % (2 * LANES) * 4
    if not taps:
        for p in range((M + 2) * (M + 2)):
            clear(to + p * point, LANES)
    elif M == 4:
        w_to_4((taps, to, tap, point))
    else:
        w_to_2((taps, to, tap, point))


@task
def _weights_to_points(piece, pieces, worker, at):
    """w [3, 3, C, C_out'] -> u [pairs of C_out, points, C', 2 LANES]."""
    M, w, u, Cp, C, Cp_out = integers(at, 6)
    for c in items(Cp, piece, pieces):
        for k in range(0, Cp_out, LANES):
            taps = w + (c * Cp_out + k) * 4 if c < C else 0
            _to_points(M, taps, C * Cp_out * 4, u, c, k, Cp)


def transform_weights(w: np.ndarray, M: int) -> np.ndarray:
    """Return U of w [3, 3, C, C_out]."""
    C, C_out = w.shape[2:]
    Cp, Cp_out = pairs(C) * LANES, pairs(C_out) * LANES
    if Cp_out != C_out:
        w = np.pad(w, ((0, 0), (0, 0), (0, 0), (0, Cp_out - C_out)))
    u = empty((Cp_out // (2 * LANES), (M + 2) ** 2, Cp, 2 * LANES))
    _weights_to_points(threads.pieces(Cp), M, address(w), address(u), Cp, C, Cp_out)
    return u


@task
def _transposed_weights_to_points(piece, pieces, worker, at):
    """w [3, 3, C, C_out] -> u [pairs of C, points, C_out', 2 LANES].

    A square has LANES x LANES channels.
    """
    M, w, u, C, C_out, space, row = integers(at, 7)
    Cp_out, blocks, squares = pairs(C_out) * LANES, pairs(C), pairs(C_out) * pairs(C)
    taps, tap = space + worker * row, LANES * BYTES
    for square in items(squares, piece, pieces):
        k, c = square // blocks * LANES, square % blocks * LANES
        rows, columns = min(LANES, C - c), min(LANES, C_out - k)
        has_weights = rows > 0 and columns > 0
        if has_weights:
            for i in range(9):
                to_lanes(w + ((i * C + c) * C_out + k) * 4, C_out, rows, columns, taps + i * tap)
        for line in range(LANES):
            inside = has_weights and line < columns
            _to_points(M, taps + line * BYTES if inside else 0, tap, u, k + line, c, Cp_out)


def transform_transposed_weights(w: np.ndarray, M: int) -> np.ndarray:
    """Return U^T: transform_weights of w [3, 3, C, C_out] with C and C_out exchanged.

    Columns beyond C are undefined.
    """
    C, C_out = w.shape[2:]
    u = empty((pairs(C) // 2, (M + 2) ** 2, pairs(C_out) * LANES, 2 * LANES))
    space = workspace(9 * LANES * LANES)
    _transposed_weights_to_points(
        threads.pieces(pairs(C) * pairs(C_out)), M, address(w), address(u), C, C_out,
        address(space), space.strides[0],
    )  # fmt: skip
    return u


@task
def _weights_from_points(piece, pieces, worker, at):
    """du [points, C', C_out'] -> gw [3, 3, C, C_out']."""
    M, du, gw, Cp, C, Cp_out = integers(at, 6)
    for c in items(C, piece, pieces):
        for k in range(0, Cp_out, LANES):
            values = du + (c * Cp_out + k) * 4
            to = gw + (c * Cp_out + k) * 4
            if M == 4:
                w_from_4((values, to, Cp * Cp_out * 4, C * Cp_out * 4))
            else:
                w_from_2((values, to, Cp * Cp_out * 4, C * Cp_out * 4))


def weights_gradient(du: np.ndarray, M: int, C: int, C_out: int) -> np.ndarray:
    """Return gw = G^T dU G [3, 3, C, C_out], with dU summed over its parts in order.

    du [parts, points C' C_out']: one for each piece, or a single one if the pieces work together.
    """
    Cp, Cp_out = pairs(C) * LANES, pairs(C_out) * LANES
    points, gw = (M + 2) ** 2, empty((3, 3, C, Cp_out))
    du = du[:, : points * Cp * Cp_out].reshape(-1, points, Cp * Cp_out)
    total = summed(du) if len(du) > 1 else du
    _weights_from_points(threads.pieces(C), M, address(total), address(gw), Cp, C, Cp_out)
    return gw if Cp_out == C_out else np.ascontiguousarray(gw[..., :C_out])
