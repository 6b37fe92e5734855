"""Winograd convolution F(4x4, 3x3): 36 multiplications where the definition has 144.

A 3x3 convolution of a 6x6 piece of the picture gives a 4x4 piece of the result. Seen as
polynomials, the convolution is a product, and a product can be computed by evaluating both factors
at enough points, multiplying point by point, and interpolating (Toom and Cook 1963, Winograd 1980;
Lavin and Gray 2016 for networks). In one dimension, with the points 0, 1, -1, 2, -2, infinity:

    y = A^T [(G w) * (B^T x)]        x [6], w [3], y [4], 6 products instead of 12

and in two dimensions the same from both sides, 36 products instead of 144:

    Y = A^T [(G w G^T) * (B^T x B)] A

Summed over input channels, each of the 36 points is a small matrix product V_p [tiles, C] times
U_p [C, K]. Every step is linear, so the backward is the same steps transposed:

    D = A dY A^T;  dU_p += V_p^T D_p;  dw = G^T dU G;  dV_p = D_p U_p^T;  dx += B dV B^T

The price is rounding: the transforms add and subtract numbers that nearly cancel. Measured against
float64 the error is 3e-6 to 3e-5 relative, about ten times that of the direct sum.

The transformed picture is never whole in memory: TILES tiles at a time go through the transform,
the 36 products and the transform back while they stay in the cache of their core.
"""

import numpy as np
from llvmlite import ir
from numba import njit, prange

from minddpm.kernels.cpu.gemm import ROWS_T, product_full, product_transposed
from minddpm.kernels.cpu.memory import copy_in, copy_out, pairs, workspace, zero
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


# --- forward and backward ------------------------------------------------------------------------


def images_per_group(tiles: int, image_floats: int) -> int:
    """How many images to take together, so that few rows of the last product are empty."""
    most = max(1, min(8, 100_000 // image_floats))
    return min(range(1, most + 1), key=lambda n: -(-n * tiles // ROWS) * ROWS / n)


@njit(parallel=True, nogil=True, cache=True)
def _forward(x, u, bias, y, top, left, group, space):
    """x [N, H, W, C], u of transform_weights, bias [K'] -> y [N, OH, OW, K].

    space [threads, floats]: for each thread V and M of one chunk, the bordered images of a group,
    and their results. All names ending in _at are addresses.
    """
    N, OH, OW, K = y.shape
    CB, KB = u.shape[2] // W, 2 * u.shape[0]
    TH, TW = (OH + M - 1) // M, (OW + M - 1) // M
    tiles = TH * TW
    PH, PW = TH * M + 2, TW * M + 2
    Cp, Kp = CB * W, KB * W
    threads = space.shape[0]
    for t in prange(threads):
        v_at = space[t].ctypes.data
        m_at = v_at + CB * BLOCK
        p_at = m_at + KB * BLOCK
        r_at = p_at + group * PH * PW * Cp * 4
        # Whole tiles of whole blocks go straight to y, others by way of a padded picture.
        straight = OH == TH * M and OW == TW * M and Kp == K
        row = TW * M * Kp * 4
        image = TH * M * row
        zero((p_at, group * PH * PW * Cp // W))
        last = N * (t + 1) // threads
        for first in range(N * t // threads, last, group):
            images = min(group, last - first)
            to_at = y.ctypes.data + first * image if straight else r_at
            for n in range(images):
                copy_in(x, first + n, p_at + n * PH * PW * Cp * 4, top, left, PH, PW, Cp)
            for start in range(0, images * tiles, TILES):
                count = min(TILES, images * tiles - start)
                for q in range(count):
                    n, r = divmod(start + q, tiles)
                    i, j = divmod(r, TW)
                    at = p_at + ((n * PH + i * M) * PW + j * M) * Cp * 4
                    for c in range(CB):
                        to_points(
                            (at + c * BYTES, v_at + c * BLOCK + q * BYTES, PW * Cp * 4, Cp * 4)
                        )
                _products(v_at, u, m_at, count, CB, KB)
                for q in range(count):
                    n, r = divmod(start + q, tiles)
                    i, j = divmod(r, TW)
                    at = to_at + n * image + i * M * row + j * M * Kp * 4
                    for k in range(KB):
                        b_at = bias.ctypes.data + k * BYTES
                        from_points(
                            (m_at + k * BLOCK + q * BYTES, at + k * BYTES, b_at, row, Kp * 4)
                        )
            if not straight:
                for n in range(images):
                    copy_out(r_at + n * image, y, first + n, 0, 0, TW * M, Kp)


@njit(inline="always")
def _products(a_at, u, c_at, count, blocks_in, blocks_out):
    """At each of the 36 points: [count, C] times [C, K]."""
    for k in range(0, blocks_out, 2):
        for p in range(POINTS):
            b = u.ctypes.data + ((k // 2) * POINTS + p) * blocks_in * W * 2 * BYTES
            for m in range(0, count, ROWS):
                at = p * POINT + m * BYTES
                product_full((a_at + at, b, c_at + k * BLOCK + at, blocks_in, BLOCK, BLOCK))


@njit(parallel=True, nogil=True, cache=True)
def _backward(gy, x, ut, gx, du, need_gx, top, left, group, space):
    """gy [N, OH, OW, K], x [N, H, W, C], ut transposed weights -> gx, du [threads, 36, C', K'].

    space [threads, floats]: for each thread V, D, the bordered images of a group, their gradients,
    and the padded gy.
    """
    N, OH, OW = gy.shape[:3]
    CB, KB = du.shape[2] // W, du.shape[3] // W
    TH, TW = (OH + M - 1) // M, (OW + M - 1) // M
    tiles = TH * TW
    PH, PW = TH * M + 2, TW * M + 2
    Cp, Kp = CB * W, KB * W
    threads = space.shape[0]
    for t in prange(threads):
        v_at = space[t].ctypes.data
        d_at = v_at + CB * BLOCK
        p_at = d_at + KB * BLOCK
        picture = PH * PW * Cp * 4
        q_at = p_at + group * picture
        g_at = q_at + group * picture
        row = TW * M * Kp * 4
        image = TH * M * row
        zero((p_at, group * PH * PW * Cp // W))
        zero((g_at, group * TH * M * TW * M * Kp // W))
        du_at = du[t].ctypes.data
        zero((du_at, POINTS * Cp * Kp // W))
        last = N * (t + 1) // threads
        for first in range(N * t // threads, last, group):
            images = min(group, last - first)
            for n in range(images):
                copy_in(x, first + n, p_at + n * picture, top, left, PH, PW, Cp)
                copy_in(gy, first + n, g_at + n * image, 0, 0, TH * M, TW * M, Kp)
            zero((q_at, group * PH * PW * Cp // W))
            for start in range(0, images * tiles, TILES):
                count = min(TILES, images * tiles - start)
                for q in range(count):
                    n, r = divmod(start + q, tiles)
                    i, j = divmod(r, TW)
                    at = p_at + n * picture + (i * M * PW + j * M) * Cp * 4
                    for c in range(CB):
                        to_points(
                            (at + c * BYTES, v_at + c * BLOCK + q * BYTES, PW * Cp * 4, Cp * 4)
                        )
                    at = g_at + n * image + i * M * row + j * M * Kp * 4
                    for k in range(KB):
                        gradient_to_points(
                            (at + k * BYTES, d_at + k * BLOCK + q * BYTES, row, Kp * 4)
                        )
                # dU_p += V_p^T D_p
                for p in range(POINTS):
                    for c in range(CB):
                        for lane in range(0, W, ROWS_T):
                            a = v_at + c * BLOCK + p * POINT + lane * 4
                            to = du_at + (p * Cp + c * W + lane) * Kp * 4
                            for k in range(0, KB, 2):
                                b = d_at + k * BLOCK + p * POINT
                                c_at = to + k * BYTES
                                product_transposed((a, b, c_at, count, BYTES, BYTES, BLOCK, Kp * 4))
                if need_gx:
                    _products(d_at, ut, v_at, count, KB, CB)  # dV_p = D_p U_p^T, in V's place
                    for q in range(count):
                        n, r = divmod(start + q, tiles)
                        i, j = divmod(r, TW)
                        at = q_at + n * picture + (i * M * PW + j * M) * Cp * 4
                        for c in range(CB):
                            gradient_from_points(
                                (v_at + c * BLOCK + q * BYTES, at + c * BYTES, PW * Cp * 4, Cp * 4)
                            )
            if need_gx:
                for n in range(images):
                    copy_out(q_at + n * picture, gx, first + n, top, left, PW, Cp)


def conv2d(x, w, b, padding):
    """y of kernels.reference.conv2d for a 3x3 window of stride 1."""
    (top, bottom), (left, right) = padding
    N, H, W_, C = x.shape
    K = w.shape[3]
    CB, KB = pairs(C), pairs(K)
    y = np.empty((N, H + top + bottom - 2, W_ + left + right - 2, K), np.float32)
    u = transform_weights(w, CB, KB)
    bias = np.zeros(KB * W, np.float32)
    if b is not None:
        bias[:K] = b
    group, floats = _space(y.shape, CB, KB, backward=False)
    _forward(x, u, bias, y, top, left, group, workspace(floats))
    return y


def conv2d_backward(gy, x, w, padding, need_gx=True):
    """gx, gw of kernels.reference.conv2d_backward for a 3x3 window of stride 1."""
    (top, _), (left, _) = padding
    C, K = w.shape[2:]
    CB, KB = pairs(C), pairs(K)
    gx = np.empty(x.shape if need_gx else (0, 0, 0, 0), np.float32)
    ut = transform_weights(np.ascontiguousarray(w.swapaxes(2, 3)), KB, CB)
    group, floats = _space(gy.shape, CB, KB, backward=True)
    du = workspace(POINTS * CB * W * KB * W, 1).reshape(-1, POINTS, CB * W, KB * W)
    _backward(gy, x, ut, gx, du, need_gx, top, left, group, workspace(floats))
    return (gx if need_gx else None), weights_gradient(du, C, K)


def _space(y_shape, CB, KB, backward):
    """Images in a group, and the floats that one thread needs."""
    TH, TW = -(-y_shape[1] // M), -(-y_shape[2] // M)
    picture = (TH * M + 2) * (TW * M + 2) * CB * W
    result = TH * M * TW * M * KB * W
    group = images_per_group(TH * TW, picture)
    pictures = 2 * picture if backward else picture
    return group, (CB + KB) * BLOCK // 4 + group * (pictures + result)
