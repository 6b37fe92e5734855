"""Winograd's transforms of weights, U = G w G^T, and of their gradient, gw = G^T dU G.

U is laid out for the register tile: [pairs of K, points, C', 2 W], lines beyond C zero.
"""

import numpy as np
from numba import get_num_threads

from minddpm.kernels.cpu.ladder.winograd_tiles import w_from_2, w_from_4, w_to_2, w_to_4
from minddpm.kernels.cpu.memory import address, clear, pairs, serial, share, workspace
from minddpm.kernels.cpu.task import integers, task
from minddpm.kernels.cpu.vector.instructions import BYTES, W
from minddpm.kernels.cpu.vector.lanes import to_lanes


@serial
def _to_points(M, taps, tap, u, line, column, lines):
    """A vector of each of the 9 taps, `tap` bytes apart, to (line, column) of u; taps 0: zeros."""
    point = lines * 2 * BYTES
    to = u + (column // (2 * W) * (M + 2) * (M + 2) * lines + line) * 2 * BYTES
    to += column % (2 * W) * 4
    if not taps:
        for p in range((M + 2) * (M + 2)):
            clear(to + p * point, W)
    elif M == 4:
        w_to_4((taps, to, tap, point))
    else:
        w_to_2((taps, to, tap, point))


@task
def _weights_to_points(t, threads, at):
    """w [3, 3, C, K'] -> u [pairs of K, points, C', 2 W]."""
    M, w, u, Cp, C, Kp = integers(at, 6)
    for c in range(share(Cp, t, threads), share(Cp, t + 1, threads)):
        for k in range(0, Kp, W):
            taps = w + (c * Kp + k) * 4 if c < C else 0
            _to_points(M, taps, C * Kp * 4, u, c, k, Cp)


def transform_weights(w: np.ndarray, M: int) -> np.ndarray:
    """U of w [3, 3, C, K]."""
    C, K = w.shape[2:]
    Cp, Kp = pairs(C) * W, pairs(K) * W
    if Kp != K:
        w = np.pad(w, ((0, 0), (0, 0), (0, 0), (0, Kp - K)))
    u = np.empty((Kp // (2 * W), (M + 2) ** 2, Cp, 2 * W), np.float32)
    _weights_to_points(get_num_threads(), M, address(w), address(u), Cp, C, Kp)
    return u


@task
def _turned_weights_to_points(t, threads, at):
    """w [3, 3, C, K] -> u [pairs of C, points, K', 2 W], a block of W x W channels at a time."""
    M, w, u, C, K, space, row = integers(at, 7)
    Kp, blocks, pieces = pairs(K) * W, pairs(C), pairs(K) * pairs(C)
    taps, tap = space + t * row, W * BYTES
    for piece in range(share(pieces, t, threads), share(pieces, t + 1, threads)):
        k, c = piece // blocks * W, piece % blocks * W
        rows, columns = min(W, C - c), min(W, K - k)
        some = rows > 0 and columns > 0
        if some:
            for i in range(9):
                to_lanes(w + ((i * C + c) * K + k) * 4, K, rows, columns, taps + i * tap)
        for line in range(W):
            inside = some and line < columns
            _to_points(M, taps + line * BYTES if inside else 0, tap, u, k + line, c, Kp)


def transform_turned_weights(w: np.ndarray, M: int) -> np.ndarray:
    """U^T: transform_weights of w [3, 3, C, K] with C and K exchanged.

    Columns beyond C hold anything.
    """
    C, K = w.shape[2:]
    u = np.empty((pairs(C) // 2, (M + 2) ** 2, pairs(K) * W, 2 * W), np.float32)
    space = workspace(9 * W * W)
    _turned_weights_to_points(
        len(space), M, address(w), address(u), C, K, address(space), space.strides[0]
    )
    return u


@task
def _weights_from_points(t, threads, at):
    """du [parts, points, C', K'] -> gw [3, 3, C, K']."""
    M, du, parts, part, gw, Cp, C, Kp = integers(at, 8)
    for c in range(share(C, t, threads), share(C, t + 1, threads)):
        for k in range(0, Kp, W):
            values = du + (c * Kp + k) * 4
            to = gw + (c * Kp + k) * 4
            if M == 4:
                w_from_4((values, to, Cp * Kp * 4, C * Kp * 4, parts, part))
            else:
                w_from_2((values, to, Cp * Kp * 4, C * Kp * 4, parts, part))


def weights_gradient(du: np.ndarray, M: int, C: int, K: int) -> np.ndarray:
    """gw = G^T dU G [3, 3, C, K], dU summed over its parts in order.

    du [parts, points C' K']: one part from each thread that had pictures of its own, or one in all.
    """
    Cp, Kp = pairs(C) * W, pairs(K) * W
    gw = np.empty((3, 3, C, Kp), np.float32)
    _weights_from_points(
        get_num_threads(), M, address(du), len(du), du.strides[0], address(gw), Cp, C, Kp
    )
    return gw if Kp == K else np.ascontiguousarray(gw[..., :K])
