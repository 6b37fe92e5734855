"""Loops over flat arrays, each one pass: what needs no tile is left to LLVM's own vectoriser."""

import math

import numpy as np
from numba import get_num_threads, njit, prange

from minddpm.kernels.reference import PHILOX_M0, PHILOX_M1, PHILOX_W0, PHILOX_W1

fast = njit(parallel=True, nogil=True, cache=True)
LOW = np.uint64(0xFFFFFFFF)
M0, M1 = np.uint64(PHILOX_M0), np.uint64(PHILOX_M1)
W0, W1 = np.uint64(PHILOX_W0), np.uint64(PHILOX_W1)
B32, B8 = np.uint64(32), np.uint64(8)


@fast
def silu(x, y):
    """y = x / (1 + e^-x), written with tanh so that nothing overflows."""
    for i in prange(x.size):
        half = x[i] * np.float32(0.5)
        y[i] = half * (np.float32(1) + math.tanh(half))


@fast
def silu_backward(gy, x, gx):
    for i in prange(x.size):
        s = np.float32(0.5) * (np.float32(1) + math.tanh(x[i] * np.float32(0.5)))
        gx[i] = gy[i] * s * (np.float32(1) + x[i] * (np.float32(1) - s))


@fast
def upsample(x, y):
    """x [N, H, W, C] -> y [N, 2H, 2W, C]."""
    N, H, W, C = x.shape
    for r in prange(N * H):
        n, i = divmod(np.int64(r), H)
        for j in range(W):
            for c in range(C):
                v = x[n, i, j, c]
                y[n, 2 * i, 2 * j, c] = v
                y[n, 2 * i, 2 * j + 1, c] = v
                y[n, 2 * i + 1, 2 * j, c] = v
                y[n, 2 * i + 1, 2 * j + 1, c] = v


@fast
def upsample_backward(gy, gx):
    N, H, W, C = gx.shape
    for r in prange(N * H):
        n, i = divmod(np.int64(r), H)
        for j in range(W):
            for c in range(C):
                gx[n, i, j, c] = (
                    gy[n, 2 * i, 2 * j, c]
                    + gy[n, 2 * i, 2 * j + 1, c]
                    + gy[n, 2 * i + 1, 2 * j, c]
                    + gy[n, 2 * i + 1, 2 * j + 1, c]
                )


@fast
def q_sample(x0, noise, a, b, x_t):
    """x_t[n] = a[n] x0[n] + b[n] noise[n], all [N, P]."""
    for n in prange(x0.shape[0]):
        for p in range(x0.shape[1]):
            x_t[n, p] = a[n] * x0[n, p] + b[n] * noise[n, p]


@fast
def sampler_step(x_t, output, noise, px, po, k0, kx, ko, sigma, clip, x_prev, pred_x0):
    """The update and the picture seen on the way, flat; see kernels.reference.sampler_step."""
    for i in prange(x_t.size):
        x0 = px * x_t[i] + po * output[i]
        if clip:
            # Written so that nan fails both comparisons and stays nan.
            if x0 > np.float32(1):
                x0 = np.float32(1)
            elif x0 < np.float32(-1):
                x0 = np.float32(-1)
        pred_x0[i] = x0
        value = k0 * x0 + kx * x_t[i] + ko * output[i]
        if sigma != np.float32(0):
            value += sigma * noise[i]
        x_prev[i] = value


@njit(inline="always")
def nearer(average, x, rest):
    """The moving average after x: decay average + (1 - decay) x with rest = 1 - decay."""
    return average + rest * (x - average)


@fast
def adam(param, grad, m, v, average, lr, beta1, beta2, eps, decay, grad_scale, root2, rest):
    """lr is already divided by 1 - beta1^step, root2 = (1 - beta2^step)^-1/2, decay = 1 - lr wd.

    One pass also over the average: alone it would fetch every parameter from memory once more.
    """
    one = np.float32(1)
    for i in prange(param.size):
        g = grad[i] * grad_scale
        m_new = beta1 * m[i] + (one - beta1) * g
        v_new = beta2 * v[i] + (one - beta2) * (g * g)
        m[i], v[i] = m_new, v_new
        p = decay * param[i] - lr * m_new / (math.sqrt(v_new) * root2 + eps)
        param[i] = p
        if average is not None:  # decided when this is compiled
            average[i] = nearer(average[i], p, rest)


@fast
def ema(average, param, rest):
    for i in prange(param.size):
        average[i] = nearer(average[i], param[i], rest)


PART = 1 << 14  # numbers that one partial sum holds


# The flags let LLVM add in the lanes of vectors: another order than the loop's, but a fixed one.
@njit(fastmath={"reassoc", "nsz"})
def sum_of_squares(x):
    total = 0.0
    for i in range(x.size):
        total += np.float64(x[i]) * np.float64(x[i])
    return total


@fast
def squared_norm(x, parts):
    """parts[k] = the sum of x^2 over the k-th PART: the same whichever thread adds it."""
    for k in prange(parts.size):
        parts[k] = sum_of_squares(x[k * PART : (k + 1) * PART])


@njit(inline="always")
def philox(block, step, k0, k1):
    """Four random words of one block; see kernels.reference.philox4x32."""
    c0, c1 = block & LOW, block >> B32
    c2, c3 = step & LOW, step >> B32
    for _ in range(10):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1, c2, c3 = (p1 >> B32) ^ c1 ^ k0, p1 & LOW, (p0 >> B32) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


@fast
def bits(first_block, step, k0, k1, out):
    """Whole blocks: out uint32 [4 blocks]."""
    for i in prange(out.size // 4):
        words = philox(np.uint64(first_block + i), step, k0, k1)
        for j in range(4):
            out[4 * i + j] = words[j]


@fast
def normals(first_block, step, k0, k1, out):
    """Whole blocks of standard normals: out float32 [4 blocks]; see reference.random_normal."""
    unit = 2.0**-24
    for i in prange(out.size // 4):
        words = philox(np.uint64(first_block + i), step, k0, k1)
        for j in range(0, 4, 2):
            u1 = np.float64(words[j] >> B8) * unit + unit
            u2 = np.float64(words[j + 1] >> B8) * unit
            r = math.sqrt(-2.0 * math.log(u1))
            angle = 2.0 * math.pi * u2
            out[4 * i + j] = r * math.cos(angle)
            out[4 * i + j + 1] = r * math.sin(angle)


@njit(parallel=True, nogil=True, cache=True)
def _column_sums(rows, parts):
    """Sums over the rows of [R, C], one for each thread: parts [threads, C]."""
    threads = len(parts)
    for t in prange(threads):
        parts[t] = 0
        for r in range(len(rows) * t // threads, len(rows) * (t + 1) // threads):
            for c in range(rows.shape[1]):
                parts[t, c] += rows[r, c]


def column_sums(rows):
    """The sum over the rows of [R, C]: the gradient of a bias."""
    parts = np.empty((get_num_threads(), rows.shape[1]), np.float32)
    _column_sums(rows, parts)
    return parts.sum(axis=0)
