"""The parts of Winograd's F(4x4, 3x3): the transforms of one tile, and of the weights.

The mathematics is told in winograd.py, which puts these parts together.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange

from minddpm.kernels.cpu.vector import BYTES, I64, ROWS, Emitter, W, kernel

M, N_IN = 4, 6  # sizes of an output and an input tile
POINTS = N_IN * N_IN
TILES = 4 * ROWS if ROWS < 14 else 2 * ROWS  # tiles in the cache at a time
POINT = TILES * BYTES  # bytes from one point to the next in V, M and D
BLOCK = POINTS * POINT  # bytes from one block of W channels to the next

BT = np.array(
    [
        [4, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
AT = np.array(
    [
        [1, 1, 1, 1, 1, 0],
        [0, 1, -1, 2, -2, 0],
        [0, 1, 1, 4, 4, 0],
        [0, 1, -1, 8, -8, 1],
    ]
)
G = np.array(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=np.float32,
)
GT = np.ascontiguousarray(G.T)


# --- transforms ----------------------------------------------------------------------------------


def weighted_sum(e: Emitter, weights, vectors):
    """sum of weights[i] * vectors[i], without the zeros and without multiplying by 1."""
    terms = [(w, v) for w, v in zip(weights, vectors, strict=True) if w != 0]
    terms.sort(key=lambda term: term[0] != 1)  # begin with a plain vector if there is one
    w, total = terms[0]
    if w != 1:
        total = e.mul(e.const(w), total)
    for w, v in terms[1:]:
        if w == 1:
            total = e.add(total, v)
        elif w == -1:
            total = e.sub(total, v)
        else:
            total = e.fma(e.const(w), v, total)
    return total


def rows_times(e: Emitter, matrix, x):
    """matrix @ x. Rows 1, 2 and 3, 4 belong to the points +-1 and +-2: an even part E of x and an
    odd part O give both, E + O and E - O."""
    y = [None] * len(matrix)
    y[0], y[5] = weighted_sum(e, matrix[0], x), weighted_sum(e, matrix[5], x)
    for i in (1, 3):
        even = weighted_sum(e, (matrix[i] + matrix[i + 1]) / 2, x)
        odd = weighted_sum(e, (matrix[i] - matrix[i + 1]) / 2, x)
        y[i], y[i + 1] = e.add(even, odd), e.sub(even, odd)
    return y


def columns_times(e: Emitter, matrix, x):
    """matrix @ x for the transposes, whose columns 1, 2 and 3, 4 are such pairs: with the sums and
    differences of the pairs of x each row needs half as many terms."""
    parts = [x[0], x[5]]
    for i in (1, 3):
        parts += [e.add(x[i], x[i + 1]), e.sub(x[i], x[i + 1])]
    y = []
    for row in matrix:
        weights = [row[0], row[5]]
        for i in (1, 3):
            weights += [(row[i] + row[i + 1]) / 2, (row[i] - row[i + 1]) / 2]
        y.append(weighted_sum(e, weights, parts))
    return y


def both_sides(e: Emitter, times, matrix, load, size: int):
    """matrix X matrix^T of the size x size tile that load(i, j) gives, as rows of vectors."""
    columns = [times(e, matrix, [load(i, j) for i in range(size)]) for j in range(size)]
    return [times(e, matrix, [c[i] for c in columns]) for i in range(len(matrix))]


def _at(e: Emitter, address, row, pixel, i: int, j: int):
    """The address of pixel (i, j) of a tile."""
    down = e.b.mul(row, ir.Constant(I64, i))
    return e.b.add(address, e.b.add(down, e.b.mul(pixel, ir.Constant(I64, j))))


@kernel
def to_points(e: Emitter, picture, points, row, pixel) -> None:
    """V = B^T x B: a 6x6 tile of W channels -> 36 points."""
    v = both_sides(e, rows_times, BT, lambda i, j: e.load(_at(e, picture, row, pixel, i, j)), N_IN)
    for i in range(N_IN):
        for j in range(N_IN):
            e.store(v[i][j], points, (N_IN * i + j) * POINT)


@kernel
def from_points(e: Emitter, points, picture, bias, row, pixel) -> None:
    """Y = A^T M A + bias: 36 points -> a 4x4 tile."""
    b = e.load(bias)
    y = both_sides(e, columns_times, AT, lambda i, j: e.load(points, (N_IN * i + j) * POINT), N_IN)
    for i in range(M):
        for j in range(M):
            e.store(e.add(y[i][j], b), _at(e, picture, row, pixel, i, j))


@kernel
def gradient_to_points(e: Emitter, picture, points, row, pixel) -> None:
    """D = A dY A^T: a 4x4 tile of the gradient -> 36 points."""
    d = both_sides(e, rows_times, AT.T, lambda i, j: e.load(_at(e, picture, row, pixel, i, j)), M)
    for i in range(N_IN):
        for j in range(N_IN):
            e.store(d[i][j], points, (N_IN * i + j) * POINT)


@kernel
def gradient_from_points(e: Emitter, points, picture, row, pixel) -> None:
    """dx += B dV B^T: 36 points added into a 6x6 tile; neighbouring tiles overlap."""
    x = both_sides(
        e, columns_times, BT.T, lambda i, j: e.load(points, (N_IN * i + j) * POINT), N_IN
    )
    for i in range(N_IN):
        for j in range(N_IN):
            at = _at(e, picture, row, pixel, i, j)
            e.store(e.add(e.load(at), x[i][j]), at)


# --- weights -------------------------------------------------------------------------------------

LANES = 2 * W  # channels that the loops below take together, so that LLVM makes vectors of them


@njit(inline="always")
def _apply(matrix, x, y):
    """y = matrix x along the first axis: x [n, m, LANES], y [rows, m, LANES]."""
    for i in range(matrix.shape[0]):
        for j in range(x.shape[1]):
            for lane in range(LANES):
                y[i, j, lane] = 0
            for r in range(matrix.shape[1]):
                g = matrix[i, r]
                if g != 0:
                    for lane in range(LANES):
                        y[i, j, lane] += g * x[r, j, lane]


@njit(inline="always")
def _turn(x, y):
    """y[j, i] = x[i, j], lane by lane."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            for lane in range(LANES):
                y[j, i, lane] = x[i, j, lane]


@njit(parallel=True, nogil=True, cache=True)
def transform_weights(w, blocks_in, blocks_out):
    """U = G w G^T, laid out for the product: [pairs, 36, blocks_in * W, LANES].

    w [3, 3, C, K]; channels beyond C and K are zero.
    """
    C, K = w.shape[2], w.shape[3]
    u = np.zeros((blocks_out // 2, POINTS, blocks_in * W, LANES), np.float32)
    for c in prange(C):
        tile = np.zeros((3, 3, LANES), np.float32)
        half, turned = (
            np.empty((N_IN, 3, LANES), np.float32),
            np.empty((3, N_IN, LANES), np.float32),
        )
        point = np.empty((N_IN, N_IN, LANES), np.float32)
        for pair in range(blocks_out // 2):
            first = pair * LANES
            for i in range(3):
                for j in range(3):
                    for lane in range(min(LANES, K - first)):
                        tile[i, j, lane] = w[i, j, c, first + lane]
                    for lane in range(max(0, K - first), LANES):
                        tile[i, j, lane] = 0
            _apply(G, tile, half)
            _turn(half, turned)
            _apply(G, turned, point)  # (G (G w)^T) = (G w G^T)^T
            for i in range(N_IN):
                for j in range(N_IN):
                    for lane in range(LANES):
                        u[pair, N_IN * i + j, c, lane] = point[j, i, lane]
    return u


@njit(parallel=True, nogil=True, cache=True)
def weights_gradient(du, C, K):
    """gw = G^T dU G, summed over the threads in a fixed order: du [threads, 36, C', K'] -> gw."""
    gw = np.empty((3, 3, C, K), np.float32)
    for c in prange(C):
        point = np.empty((N_IN, N_IN, LANES), np.float32)
        half, turned = (
            np.empty((3, N_IN, LANES), np.float32),
            np.empty((N_IN, 3, LANES), np.float32),
        )
        tile = np.empty((3, 3, LANES), np.float32)
        for first in range(0, K, LANES):
            for i in range(N_IN):
                for j in range(N_IN):
                    for lane in range(LANES):
                        point[i, j, lane] = du[0, N_IN * i + j, c, first + lane]
                    for t in range(1, du.shape[0]):
                        for lane in range(LANES):
                            point[i, j, lane] += du[t, N_IN * i + j, c, first + lane]
            _apply(GT, point, half)
            _turn(half, turned)
            _apply(GT, turned, tile)  # (G^T dU G)^T
            for i in range(3):
                for j in range(3):
                    for lane in range(min(LANES, K - first)):
                        gw[i, j, c, first + lane] = tile[j, i, lane]
    return gw
