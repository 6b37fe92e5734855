"""Any convolution as an implicit matrix product: the patches are never whole in memory.

A chunk of output pixels is gathered into a panel of patches that stays in the cache of its core,
and meets the weights in the register tile of gemm.py. A linear layer is the convolution of a
picture of one pixel with a window of one pixel.

    y = P w;  gw = P^T gy;  gP = gy w^T, added back to where the patches came from
"""

import numpy as np
from numba import carray, njit, prange

from minddpm.kernels.cpu.gemm import ROWS_T, product_full, product_transposed
from minddpm.kernels.cpu.memory import pairs, pointer, workspace, zero
from minddpm.kernels.cpu.vector import BYTES, ROWS, Emitter, W, kernel

CHUNK = 4 * ROWS if ROWS < 14 else 2 * ROWS  # output pixels in the cache at a time
BLOCK = CHUNK * BYTES  # bytes from one block of W channels of a panel to the next


@kernel
def spread(e: Emitter, row, panel, vectors) -> None:
    """Consecutive vectors to one row of consecutive blocks of a panel."""

    def one(at, carried):
        e.store(e.load(at[0]), at[1])
        return carried

    e.loop(vectors, [(row, BYTES), (panel, BLOCK)], [], one)


@kernel
def gather_add(e: Emitter, panel, row, vectors) -> None:
    """The way back: one row of consecutive blocks, added to consecutive vectors."""

    def one(at, carried):
        e.store(e.add(e.load(at[0]), e.load(at[1])), at[1])
        return carried

    e.loop(vectors, [(panel, BLOCK), (row, BYTES)], [], one)


@kernel
def gather_with_bias(e: Emitter, panel, row, bias, vectors) -> None:
    """One row of consecutive blocks plus the bias, to consecutive vectors."""

    def one(at, carried):
        e.store(e.add(e.load(at[0]), e.load(at[2])), at[1])
        return carried

    e.loop(vectors, [(panel, BLOCK), (row, BYTES), (bias, BYTES)], [], one)


def pack(w: np.ndarray) -> np.ndarray:
    """A matrix [D, K] for the product: [pairs of K, D', 2 W], zero beyond D and K."""
    D, K = w.shape
    packed = np.zeros((pairs(D) * W, pairs(K) * W), np.float32)
    packed[:D, :K] = w
    return np.ascontiguousarray(packed.reshape(pairs(D) * W, -1, 2 * W).swapaxes(0, 1))


@njit(inline="always")
def _fill_patches(x, start, count, OH, OW, KH, KW, stride, top, left, at):
    """Patches of output pixels start .. start + count - 1: row q of the panel at address `at`."""
    _, H, WX, C = x.shape
    panel = carray(pointer(at), (pairs(KH * KW * C), CHUNK, W), np.float32)
    for q in range(count):
        n, r = divmod(start + q, OH * OW)
        i, j = divmod(r, OW)
        for kh in range(KH):
            a = i * stride + kh - top
            for kw in range(KW):
                b = j * stride + kw - left
                d = (kh * KW + kw) * C
                inside = 0 <= a < H and 0 <= b < WX
                if C % W == 0 and inside:
                    spread((x[n, a, b].ctypes.data, at + (d // W) * BLOCK + q * BYTES, C // W))
                else:
                    for c in range(C):
                        panel[(d + c) // W, q, (d + c) % W] = x[n, a, b, c] if inside else 0


@njit(inline="always")
def _fill_rows(rows, start, count, at):
    """Rows start .. start + count - 1 of a matrix [R, K] as a panel."""
    K = rows.shape[1]
    panel = carray(pointer(at), (pairs(K), CHUNK, W), np.float32)
    for q in range(count):
        if K % W == 0:
            spread((rows[start + q].ctypes.data, at + q * BYTES, K // W))
        else:
            for k in range(K):
                panel[k // W, q, k % W] = rows[start + q, k]


@njit(inline="always")
def _product(a_at, packed, c_at, count):
    """[count, D] times [D, K], panel by panel."""
    for pair in range(packed.shape[0]):
        for m in range(0, count, ROWS):
            product_full(
                (
                    a_at + m * BYTES,
                    packed[pair].ctypes.data,
                    c_at + 2 * pair * BLOCK + m * BYTES,
                    packed.shape[1] // W,
                    BLOCK,
                    BLOCK,
                )
            )


@njit(parallel=True, nogil=True, cache=True)
def _forward(x, packed, bias, y, KH, KW, stride, top, left, space):
    """y [N, OH, OW, K] of x [N, H, W, C]; space [threads, floats]: a panel of P and one of y."""
    N, OH, OW, K = y.shape
    D, threads = packed.shape[1], space.shape[0]
    rows = y.reshape(N * OH * OW, K)
    for t in prange(threads):
        a_at = space[t].ctypes.data
        c_at = a_at + D // W * BLOCK
        zero((a_at, D // W * CHUNK))
        panel = carray(pointer(c_at), (packed.shape[0] * 2, CHUNK, W), np.float32)
        last = len(rows) * (t + 1) // threads
        for start in range(len(rows) * t // threads, last, CHUNK):
            count = min(CHUNK, last - start)
            _fill_patches(x, start, count, OH, OW, KH, KW, stride, top, left, a_at)
            _product(a_at, packed, c_at, count)
            for q in range(count):
                if K % W == 0:
                    to = rows[start + q].ctypes.data
                    gather_with_bias((c_at + q * BYTES, to, bias.ctypes.data, K // W))
                else:
                    for k in range(K):
                        rows[start + q, k] = panel[k // W, q, k % W] + bias[k]


@njit(parallel=True, nogil=True, cache=True)
def _backward(gy, x, packed, gx, gw, gb, need_gx, KH, KW, stride, top, left, space):
    """gx [N, H, W, C], and for each thread gw [D', K'] and gb [K].

    packed: the weights as [K, D]. space [threads, floats]: panels of P, of gy and of gP.
    Threads share out whole images, since the windows of one image overlap in gx.
    """
    N, OH, OW, K = gy.shape
    _, H, WX, C = x.shape
    D, Kp, threads = gw.shape[1], gw.shape[2], space.shape[0]
    rows = gy.reshape(N * OH * OW, K)
    for t in prange(threads):
        a_at = space[t].ctypes.data
        g_at = a_at + D // W * BLOCK
        p_at = g_at + Kp // W * BLOCK
        zero((a_at, (D + Kp) // W * CHUNK))
        zero((gw[t].ctypes.data, D * Kp // W))
        gb[t] = 0
        panel = carray(pointer(p_at), (D // W, CHUNK, W), np.float32)
        first, last = N * t // threads, N * (t + 1) // threads
        if need_gx:
            gx[first:last] = 0
        for start in range(first * OH * OW, last * OH * OW, CHUNK):
            count = min(CHUNK, last * OH * OW - start)
            _fill_patches(x, start, count, OH, OW, KH, KW, stride, top, left, a_at)
            _fill_rows(rows, start, count, g_at)
            for q in range(count):
                for k in range(K):
                    gb[t, k] += rows[start + q, k]
            for d in range(0, D, ROWS_T):
                a = a_at + (d // W) * BLOCK + (d % W) * 4
                for k in range(0, Kp // W, 2):
                    to = gw[t, d].ctypes.data + k * BYTES
                    product_transposed(
                        (a, g_at + k * BLOCK, to, count, BYTES, BYTES, BLOCK, Kp * 4)
                    )
            if need_gx:
                _product(g_at, packed, p_at, count)
                for q in range(count):
                    n, r = divmod(start + q, OH * OW)
                    i, j = divmod(r, OW)
                    for kh in range(KH):
                        a = i * stride + kh - top
                        for kw in range(KW):
                            b = j * stride + kw - left
                            d = (kh * KW + kw) * C
                            if 0 <= a < H and 0 <= b < WX:
                                if C % W == 0:
                                    source = p_at + (d // W) * BLOCK + q * BYTES
                                    gather_add((source, gx[n, a, b].ctypes.data, C // W))
                                else:
                                    for c in range(C):
                                        gx[n, a, b, c] += panel[(d + c) // W, q, (d + c) % W]


def conv2d(x, w, b, stride, padding):
    """y of kernels.reference.conv2d for any window, stride and padding."""
    KH, KW, C, K = w.shape
    (top, bottom), (left, right) = padding
    N, H, WX, _ = x.shape
    OH, OW = (H + top + bottom - KH) // stride + 1, (WX + left + right - KW) // stride + 1
    y = np.empty((N, OH, OW, K), np.float32)
    packed = pack(w.reshape(KH * KW * C, K))
    bias = np.zeros(pairs(K) * W, np.float32)
    if b is not None:
        bias[:K] = b
    space = workspace((packed.shape[1] + pairs(K) * W) * CHUNK)
    _forward(x, packed, bias, y, KH, KW, stride, top, left, space)
    return y


def conv2d_backward(gy, x, w, stride, padding, need_gx=True):
    """gx, gw, gb of kernels.reference.conv2d_backward for any window, stride and padding."""
    KH, KW, C, K = w.shape
    (top, _), (left, _) = padding
    D, Kp = pairs(KH * KW * C) * W, pairs(K) * W
    packed = pack(w.reshape(KH * KW * C, K).T)
    gx = np.empty(x.shape if need_gx else (0, 0, 0, 0), np.float32)
    space = workspace((2 * D + Kp) * CHUNK)
    threads = len(space)
    gw = workspace(D * Kp, slot=1)[:, : D * Kp].reshape(threads, D, Kp)
    gb = np.empty((threads, K), np.float32)
    _backward(gy, x, packed, gx, gw, gb, need_gx, KH, KW, stride, top, left, space)
    gw = gw.sum(axis=0)[: KH * KW * C, :K].reshape(w.shape)
    return (gx if need_gx else None), gw, gb.sum(axis=0)
