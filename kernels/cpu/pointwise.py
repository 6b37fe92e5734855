"""Loops over flat arrays, each one pass: what needs no tile is left to LLVM's own vectoriser."""

import math

import numpy as np
from numba import njit, prange

fast = njit(parallel=True, nogil=True, cache=True)
PART = 1 << 14  # numbers of a flat array that a thread takes at a time


@fast
def add(a, b, total):
    for i in prange(total.size):
        total[i] = a[i] + b[i]


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
def depth_to_space(z, y):
    """z [N, H, W, 2 2 C] -> y [N, 2H, 2W, C]: the channels of a pixel become 2 x 2 pixels."""
    N, H2, W2, C = y.shape
    for r in prange(N * H2):
        n, i = divmod(np.int64(r), H2)
        for j in range(W2):
            first = (i % 2 * 2 + j % 2) * C
            for c in range(C):
                y[n, i, j, c] = z[n, i // 2, j // 2, first + c]


@fast
def space_to_depth(y, z):
    """And back."""
    N, H2, W2, C = y.shape
    for r in prange(N * H2):
        n, i = divmod(np.int64(r), H2)
        for j in range(W2):
            first = (i % 2 * 2 + j % 2) * C
            for c in range(C):
                z[n, i // 2, j // 2, first + c] = y[n, i, j, c]


@njit
def mix(x0, noise, a, b, x_t):
    """x_t = a x0 + b noise for numbers a, b."""
    for i in range(x0.size):
        x_t[i] = a * x0[i] + b * noise[i]


@fast
def q_sample(x0, noise, a, b, x_t):
    """x_t[n] = a[n] x0[n] + b[n] noise[n], all [N, P]."""
    for n in prange(x0.shape[0]):
        mix(x0[n], noise[n], a[n], b[n], x_t[n])


@njit
def update(x_t, output, noise, px, po, k0, kx, ko, sigma, clip, x_prev, pred_x0):
    """The update and the picture seen on the way, flat; see kernels.reference.sampler_step."""
    for i in range(x_t.size):
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


@fast
def sampler_step(x_t, output, noise, px, po, k0, kx, ko, sigma, clip, x_prev, pred_x0):
    """update() in parts, one for each thread at a time."""
    for k in prange(-(-x_t.size // PART)):
        part = slice(k * PART, min((k + 1) * PART, x_t.size))
        update(
            x_t[part], output[part], noise[part], px, po, k0, kx, ko, sigma, clip,
            x_prev[part], pred_x0[part],
        )  # fmt: skip


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
