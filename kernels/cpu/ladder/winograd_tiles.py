"""Winograd's F(M x M, 3x3) for M = 2 and 4: the transforms of one tile and of weights.

conv4_winograd.py derives them; winograd_steps.py and winograd_weights.py apply them.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from minddpm.kernels.cpu.vector.instructions import I64, Emitter, kernel

# The points of M = 2 are 0, 1, -1, infinity; those of M = 4 are 0, 1, -1, 2, -2, infinity.
BT = {
    2: np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, -1, 0, 1]]),
    4: np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ),
}
AT = {
    2: np.array([[1, 1, 1, 0], [0, 1, -1, 1]]),
    4: np.array(
        [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]
    ),
}
G = {
    2: np.array([[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]]),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
}


# --- transforms ----------------------------------------------------------------------------------


def weighted_sum(e: Emitter, weights, vectors):
    """Return the sum of weights[i] * vectors[i], without terms of 0 or multiplications by 1."""
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
    """Return matrix @ x.

    Rows 1, 2 and 3, 4 belong to the points +-1 and +-2: the even part E and the odd part O of x
    give both rows, E + O and E - O.
    """
    last = len(matrix) - 1
    y = [None] * len(matrix)
    y[0], y[last] = weighted_sum(e, matrix[0], x), weighted_sum(e, matrix[last], x)
    for i in range(1, last, 2):
        even = weighted_sum(e, (matrix[i] + matrix[i + 1]) / 2, x)
        odd = weighted_sum(e, (matrix[i] - matrix[i + 1]) / 2, x)
        y[i], y[i + 1] = e.add(even, odd), e.sub(even, odd)
    return y


def columns_times(e: Emitter, matrix, x):
    """Return matrix @ x for a transpose, whose columns 1, 2 and 3, 4 belong to +-1 and +-2.

    With the sums and differences of these pairs of x each row needs half as many terms.
    """
    last = len(x) - 1
    parts = [x[0], x[last]]
    for i in range(1, last, 2):
        parts += [e.add(x[i], x[i + 1]), e.sub(x[i], x[i + 1])]
    y = []
    for row in matrix:
        weights = [row[0], row[last]]
        for i in range(1, last, 2):
            weights += [(row[i] + row[i + 1]) / 2, (row[i] - row[i + 1]) / 2]
        y.append(weighted_sum(e, weights, parts))
    return y


def plain_times(e: Emitter, matrix, x):
    """Return matrix @ x, row by row."""
    return [weighted_sum(e, row, x) for row in matrix]


def both_sides(e: Emitter, times, matrix, load):
    """Return matrix X matrix^T, as rows of vectors, of the square tile X[i][j] = load(i, j)."""
    size = range(matrix.shape[1])
    columns = [times(e, matrix, [load(i, j) for i in size]) for j in size]
    return [times(e, matrix, [c[i] for c in columns]) for i in range(len(matrix))]


def _at(e: Emitter, address, row, pixel, i: int, j: int):
    """Return the address of pixel (i, j) of a tile."""
    down = e.b.mul(row, ir.Constant(I64, i))
    return e.b.add(address, e.b.add(down, e.b.mul(pixel, ir.Constant(I64, j))))


class Transforms(NamedTuple):
    """The kernels of one M; each takes LANES channels of one tile."""

    to_points: object
    from_points: object
    gradient_to_points: object
    gradient_from_points: object
    weights_to_points: object
    weights_from_points: object


def transforms(M: int) -> Transforms:
    """Emit the kernels for output tiles of M x M pixels and input tiles of (M + 2) x (M + 2).

    All steps are in bytes; point: the step from one point of V, Z or D to the next.
    """
    bt, at, g = BT[M], AT[M], G[M]
    size = M + 2
    every = [(i, j) for i in range(size) for j in range(size)]

    def to_points(e: Emitter, image, points, point, row, pixel) -> None:
        """V = B^T x B: a tile of x -> points."""
        v = both_sides(e, rows_times, bt, lambda i, j: e.load(_at(e, image, row, pixel, i, j)))
        for i, j in every:
            e.store(v[i][j], _at(e, points, point, point, size * i, j))

    def from_points(
        e: Emitter, points, point, y, row, pixel, bias, extra, extra_row, extra_pixel
    ) -> None:
        """Y = A^T Z A + bias + extra: points -> a tile; extra has its own steps (0 for zeros)."""
        b = e.load(bias)
        tile = both_sides(
            e, columns_times, at, lambda i, j: e.load(_at(e, points, point, point, size * i, j))
        )
        for i in range(M):
            for j in range(M):
                more = e.add(b, e.load(_at(e, extra, extra_row, extra_pixel, i, j)))
                e.store(e.add(tile[i][j], more), _at(e, y, row, pixel, i, j))

    def gradient_to_points(e: Emitter, image, points, point, row, pixel) -> None:
        """D = A dY A^T: a tile of the gradient -> points."""
        d = both_sides(e, rows_times, at.T, lambda i, j: e.load(_at(e, image, row, pixel, i, j)))
        for i, j in every:
            e.store(d[i][j], _at(e, points, point, point, size * i, j))

    def gradient_from_points(e: Emitter, points, point, image, row, pixel) -> None:
        """dx += B dV B^T: points added into a tile; neighbouring tiles overlap."""
        x = both_sides(
            e, columns_times, bt.T, lambda i, j: e.load(_at(e, points, point, point, size * i, j))
        )
        for i, j in every:
            to = _at(e, image, row, pixel, i, j)
            e.store(e.add(e.load(to), x[i][j]), to)

    def weights_to_points(e: Emitter, w, u, tap, point) -> None:
        """U = G w G^T: 3x3 taps, `tap` bytes apart -> points, `point` bytes apart."""
        x = both_sides(e, plain_times, g, lambda i, j: e.load(_at(e, w, tap, tap, 3 * i, j)))
        for i, j in every:
            e.store(x[i][j], _at(e, u, point, point, size * i, j))

    def weights_from_points(e: Emitter, du, gw, point, tap) -> None:
        """gw = G^T dU G: points, `point` bytes apart -> 3x3 taps, `tap` bytes apart."""
        x = both_sides(
            e, plain_times, g.T, lambda i, j: e.load(_at(e, du, point, point, size * i, j))
        )
        for i in range(3):
            for j in range(3):
                e.store(x[i][j], _at(e, gw, tap, tap, 3 * i, j))

    kernels = []
    for body in (
        to_points, from_points, gradient_to_points, gradient_from_points, weights_to_points,
        weights_from_points,
    ):  # fmt: skip
        body.__name__ += f"_{M}"
        kernels.append(kernel(body))
    return Transforms(*kernels)


to_points_2, from_points_2, d_to_points_2, d_from_points_2, w_to_2, w_from_2 = transforms(2)
to_points_4, from_points_4, d_to_points_4, d_from_points_4, w_to_4, w_from_4 = transforms(4)
