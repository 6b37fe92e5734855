"""Group normalisation with or without SiLU: two passes over each image while it is in the cache.

Forward: per-channel sums, combined into the group's mean and rstd; then
y = f((x - mean) rstd w + b). Backward, with z that argument, dz = gy f'(z) and n = (x - mean) rstd:
per-channel sums of dz and dz (x - mean); then gx = rstd (w dz - avg(w dz) - n avg(w dz n)). Between
the passes dz waits in gx.
"""

import math

import numpy as np
from numba import njit, prange

from minddpm.kernels.cpu.memory import workspace
from minddpm.kernels.cpu.vector import BYTES, Emitter, W, kernel

PAIR = 2 * W  # channels that a pass takes together: with AVX2 they are one cache line


@kernel
def sums(e: Emitter, x, pixels, step, pivot, out, second) -> None:
    """Sums of x - pivot and (x - pivot)^2 over the pixels for a pair of blocks."""
    pivots = [e.load(pivot, j * BYTES) for j in range(2)]

    def one(at, acc):
        result = []
        for j in range(2):
            d = e.sub(e.load(at[0], j * BYTES), pivots[j])
            result += [e.add(acc[2 * j], d), e.fma(d, d, acc[2 * j + 1])]
        return result

    acc = e.loop(pixels, [(x, step)], [e.const(0)] * 4, one)
    for j in range(2):
        e.store(acc[2 * j], out, j * BYTES)
        e.store(acc[2 * j + 1], second, j * BYTES)


def _apply(with_silu: bool):
    def apply(e: Emitter, x, y, pixels, step, mean, scale, bias) -> None:
        """y = f((x - mean) scale + bias) for a pair of blocks."""
        m, s, b = ([e.load(at, j * BYTES) for j in range(2)] for at in (mean, scale, bias))

        def one(at, carried):
            for j in range(2):
                z = e.fma(e.sub(e.load(at[0], j * BYTES), m[j]), s[j], b[j])
                e.store(e.mul(z, e.sigmoid(z)) if with_silu else z, at[1], j * BYTES)
            return carried

        e.loop(pixels, [(x, step), (y, step)], [], one)

    apply.__name__ = f"apply_{with_silu}"
    return kernel(apply)


apply_plain, apply_silu = _apply(False), _apply(True)


def _backward_sums(with_silu: bool):
    def backward_sums(e: Emitter, x, gy, dz, pixels, step, mean, scale, bias, out, second) -> None:
        """dz = gy f'(z), and its sums with 1 and with x - mean, for a pair of blocks.

        silu'(z) = s (1 + z (1 - s))
        """
        m, s, b = ([e.load(at, j * BYTES) for j in range(2)] for at in (mean, scale, bias))

        def one(at, acc):
            result = []
            for j in range(2):
                d = e.sub(e.load(at[0], j * BYTES), m[j])
                g = e.load(at[1], j * BYTES)
                if with_silu:
                    z = e.fma(d, s[j], b[j])
                    sigma = e.sigmoid(z)
                    slope = e.fma(z, e.sub(e.const(1), sigma), e.const(1))
                    g = e.mul(g, e.mul(sigma, slope))
                e.store(g, at[2], j * BYTES)
                result += [e.add(acc[2 * j], g), e.fma(g, d, acc[2 * j + 1])]
            return result

        zeros = [e.const(0)] * 4
        acc = e.loop(pixels, [(x, step), (gy, step), (dz, step)], zeros, one)
        for j in range(2):
            e.store(acc[2 * j], out, j * BYTES)
            e.store(acc[2 * j + 1], second, j * BYTES)

    backward_sums.__name__ = f"backward_sums_{with_silu}"
    return kernel(backward_sums)


backward_sums_plain, backward_sums_silu = _backward_sums(False), _backward_sums(True)


@kernel
def backward_apply(e: Emitter, x, gx, pixels, step, mean, scale, slope, shift) -> None:
    """gx = dz scale + (x - mean) slope + shift for a pair of blocks; dz stands in gx."""
    m, s, a, c = ([e.load(at, j * BYTES) for j in range(2)] for at in (mean, scale, slope, shift))

    def one(at, carried):
        for j in range(2):
            d = e.sub(e.load(at[0], j * BYTES), m[j])
            dz = e.load(at[1], j * BYTES)
            e.store(e.fma(dz, s[j], e.fma(d, a[j], c[j])), at[1], j * BYTES)
        return carried

    e.loop(pixels, [(x, step), (gx, step)], [], one)


@njit(parallel=True, nogil=True, cache=True)
def _forward(x, weight, bias, groups, eps, silu, y, mean, rstd, space):
    """x, y [N, P, C] with C a multiple of PAIR; mean, rstd [N, G]; space [threads, 4 C]."""
    N, P, C = x.shape
    size, threads = C // groups, space.shape[0]
    for t in prange(threads):
        first, second = space[t, :C], space[t, C : 2 * C]
        means, scales = space[t, 2 * C : 3 * C], space[t, 3 * C : 4 * C]
        for n in range(N * t // threads, N * (t + 1) // threads):
            x_at, y_at = x[n].ctypes.data, y[n].ctypes.data
            # The mean first, then the squares around it: E[x^2] - E[x]^2 would cancel where
            # |mean| >> std. Each channel around its own mean, which is shifted to the group's.
            means[:] = x[n, 0]
            for _ in range(2):
                for c in range(0, C, PAIR):
                    sums(
                        (
                            x_at + 4 * c,
                            P,
                            4 * C,
                            means[c:].ctypes.data,
                            first[c:].ctypes.data,
                            second[c:].ctypes.data,
                        )
                    )
                for c in range(C):
                    means[c] += first[c] / P
            for g in range(groups):
                m = 0.0
                for c in range(g * size, (g + 1) * size):
                    m += means[c]
                m /= size
                var = 0.0
                for c in range(g * size, (g + 1) * size):
                    apart = means[c] - m
                    var += second[c] / P + apart * apart
                r = 1 / math.sqrt(var / size + eps)
                mean[n, g], rstd[n, g] = m, r
                for c in range(g * size, (g + 1) * size):
                    means[c], scales[c] = m, r * weight[c]
            for c in range(0, C, PAIR):
                at = (
                    x_at + 4 * c,
                    y_at + 4 * c,
                    P,
                    4 * C,
                    means[c:].ctypes.data,
                    scales[c:].ctypes.data,
                    bias[c:].ctypes.data,
                )
                if silu:
                    apply_silu(at)
                else:
                    apply_plain(at)


@njit(parallel=True, nogil=True, cache=True)
def _backward(gy, x, weight, bias, mean, rstd, groups, silu, gx, gw, gb, space):
    """gx [N, P, C]; for each thread gw and gb [threads, C]; space [threads, 6 C]."""
    N, P, C = x.shape
    size, threads = C // groups, space.shape[0]
    for t in prange(threads):
        first, second = space[t, :C], space[t, C : 2 * C]
        means, scales = space[t, 2 * C : 3 * C], space[t, 3 * C : 4 * C]
        slopes, shifts = space[t, 4 * C : 5 * C], space[t, 5 * C : 6 * C]
        gw[t], gb[t] = 0, 0
        for n in range(N * t // threads, N * (t + 1) // threads):
            for g in range(groups):
                for c in range(g * size, (g + 1) * size):
                    means[c], scales[c] = mean[n, g], rstd[n, g] * weight[c]
            for c in range(0, C, PAIR):
                at = (
                    x[n].ctypes.data + 4 * c,
                    gy[n].ctypes.data + 4 * c,
                    gx[n].ctypes.data + 4 * c,
                    P,
                    4 * C,
                    means[c:].ctypes.data,
                    scales[c:].ctypes.data,
                    bias[c:].ctypes.data,
                    first[c:].ctypes.data,
                    second[c:].ctypes.data,
                )
                if silu:
                    backward_sums_silu(at)
                else:
                    backward_sums_plain(at)
            for g in range(groups):
                r = rstd[n, g]
                plain, tilted = 0.0, 0.0  # avg(w dz) and avg(w dz n)
                for c in range(g * size, (g + 1) * size):
                    gw[t, c] += second[c] * r
                    gb[t, c] += first[c]
                    plain += weight[c] * first[c]
                    tilted += weight[c] * second[c] * r
                for c in range(g * size, (g + 1) * size):
                    slopes[c] = -r * r * tilted / (size * P)
                    shifts[c] = -r * plain / (size * P)
            for c in range(0, C, PAIR):
                backward_apply(
                    (
                        x[n].ctypes.data + 4 * c,
                        gx[n].ctypes.data + 4 * c,
                        P,
                        4 * C,
                        means[c:].ctypes.data,
                        scales[c:].ctypes.data,
                        slopes[c:].ctypes.data,
                        shifts[c:].ctypes.data,
                    )
                )


def fits(x: np.ndarray) -> bool:
    """Whether the vector passes can take x: whole pairs of blocks."""
    return x.shape[-1] % PAIR == 0


def forward(x, weight, bias, groups, eps, silu):
    """y, mean, rstd of kernels.reference.group_norm (or group_norm_silu)."""
    N, C = x.shape[0], x.shape[-1]
    y = np.empty_like(x)
    mean, rstd = np.empty((N, groups), np.float32), np.empty((N, groups), np.float32)
    flat = (N, -1, C)
    _forward(
        x.reshape(flat), weight, bias, groups, eps, silu, y.reshape(flat), mean, rstd,
        workspace(4 * C),
    )  # fmt: skip
    return y, mean, rstd


def backward(gy, x, weight, bias, mean, rstd, groups, silu):
    """gx, gw, gb of kernels.reference.group_norm_backward (or group_norm_silu_backward)."""
    N, C = x.shape[0], x.shape[-1]
    gx, flat, space = np.empty_like(x), (N, -1, C), workspace(6 * C)
    gw, gb = np.empty((len(space), C), np.float32), np.empty((len(space), C), np.float32)
    _backward(
        gy.reshape(flat), x.reshape(flat), weight, bias, mean, rstd, groups, silu,
        gx.reshape(flat), gw, gb, space,
    )  # fmt: skip
    return gx, gw.sum(axis=0), gb.sum(axis=0)
