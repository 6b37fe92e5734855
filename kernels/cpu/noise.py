"""Random streams, noising and the sampler's step, each in one pass over flat arrays."""

from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np
from numba import njit, prange

from minddpm.kernels.cpu.compiled import parallel
from minddpm.kernels.cpu.philox import CHUNK, key, normal_blocks, philox
from minddpm.kernels.float32 import float32_only

PART = 1 << 14  # numbers of a flat array that a thread computes at a time


# --- random streams ------------------------------------------------------------------------------


def _blocks(kernel: Callable, kind: type, n: int, seed: int, purpose: int, step: int, first: int):
    """Return elements first .. first + n - 1 of a stream, cut out of blocks of four."""
    start, end = first // 4, (first + n + 3) // 4
    out = np.empty(4 * (end - start), kind)
    kernel(np.uint64(start), *key(step, seed, purpose), out)
    return out[first - 4 * start : first - 4 * start + n]


def random_bits(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    return _blocks(_bits, np.uint32, n, seed, purpose, step, first)


def random_uniform(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    words = random_bits(xp, n, seed, purpose, step, first)
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def random_normal(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    return _blocks(_normals, np.float32, n, seed, purpose, step, first)


@parallel
def _bits(first_block, step, k0, k1, out):
    """Draw complete blocks of random words: out uint32 [4 blocks]."""
    for i in prange(out.size // 4):
        words = philox(first_block + np.uint64(i), step, k0, k1)
        for j in range(4):
            out[4 * i + j] = words[j]


@parallel
def _normals(first_block, step, k0, k1, out):
    """Draw complete blocks of standard normals: out float32 [4 blocks]."""
    for k in prange(-(-out.size // CHUNK)):
        block = first_block + np.uint64(k * (CHUNK // 4))
        normal_blocks(block, step, k0, k1, out[k * CHUNK : (k + 1) * CHUNK])


# --- noising -------------------------------------------------------------------------------------


@float32_only
def q_sample(x0, noise, a, b):
    x_t, flat = np.empty_like(x0), (len(x0), -1)
    _q_sample(x0.reshape(flat), noise.reshape(flat), a, b, x_t.reshape(flat))
    return x_t


@float32_only
def q_sample_normal(x0, a, b, seed: int, purpose: int, step: int):
    x_t, z, P = np.empty_like(x0), np.empty_like(x0), x0.size // len(x0)
    _q_sample_normal(
        x0.reshape(-1), a, b, P, *key(step, seed, purpose), x_t.reshape(-1), z.reshape(-1)
    )
    return x_t, z


@parallel
def _q_sample(x0, noise, a, b, x_t):
    """Compute x_t[n] = a[n] x0[n] + b[n] noise[n] for arrays [N, P]."""
    for n in prange(x0.shape[0]):
        _mix(x0[n], noise[n], a[n], b[n], x_t[n])


@parallel
def _q_sample_normal(x0, a, b, P, step, k0, k1, x_t, noise):
    """Compute x_t of q_sample and its noise, flat: image n is elements nP .. nP + P - 1."""
    for k in prange(-(-x0.size // CHUNK)):
        start = np.int64(k * CHUNK)
        end = min(start + CHUNK, x0.size)
        z = np.empty(CHUNK, np.float32)
        normal_blocks(np.uint64(start // 4), step, k0, k1, z[: (end - start + 3) // 4 * 4])
        noise[start:end] = z[: end - start]
        for n in range(start // P, (end - 1) // P + 1):
            inside = slice(max(start, n * P), min(end, (n + 1) * P))
            _mix(x0[inside], noise[inside], a[n], b[n], x_t[inside])


@njit
def _mix(x0, noise, a, b, x_t):
    """Compute x_t = a x0 + b noise for numbers a, b."""
    for i in range(x0.size):
        x_t[i] = a * x0[i] + b * noise[i]


# --- the sampler's step --------------------------------------------------------------------------


@float32_only
def sampler_step(x_t, output, noise, coefficients: Sequence[float], clip: bool):
    x_prev, pred_x0 = np.empty_like(x_t), np.empty_like(x_t)
    noise = x_t if noise is None else noise  # not read where sigma = 0
    flat = [a.reshape(-1) for a in (x_t, output, noise)]
    numbers = [np.float32(c) for c in coefficients]
    _sampler_step(*flat, *numbers, clip, x_prev.reshape(-1), pred_x0.reshape(-1))
    return x_prev, pred_x0


@float32_only
def sampler_step_normal(
    x_t, output, coefficients: Sequence[float], clip: bool,
    seed: int, purpose: int, step: int, first: int = 0,
):  # fmt: skip
    x_prev, pred_x0 = np.empty_like(x_t), np.empty_like(x_t)
    numbers, stream = [np.float32(c) for c in coefficients], key(step, seed, purpose)
    results = x_prev.reshape(-1), pred_x0.reshape(-1)
    _sampler_step_normal(
        x_t.reshape(-1), output.reshape(-1), *numbers, clip, first, *stream, *results
    )
    return x_prev, pred_x0


@parallel
def _sampler_step(x_t, output, noise, px, po, k0, kx, ko, sigma, clip, x_prev, pred_x0):
    for k in prange(-(-x_t.size // PART)):
        part = slice(k * PART, min((k + 1) * PART, x_t.size))
        _update(
            x_t[part], output[part], noise[part], px, po, k0, kx, ko, sigma, clip,
            x_prev[part], pred_x0[part],
        )  # fmt: skip


@parallel
def _sampler_step_normal(
    x_t, output, px, po, kp, kx, ko, sigma, clip, first, step, k0, k1, x_prev, pred_x0
):
    """Apply _update with elements first, first + 1, ... of the stream as noise; arrays are flat.

    kp is _update's coefficient k0, because k0 and k1 are the stream's key here.
    """
    lead = first % 4  # elements of the first block that come before `first`
    for k in prange(-(-x_t.size // CHUNK)):
        start = np.int64(k * CHUNK)
        end = min(start + CHUNK, x_t.size)
        z = np.empty(CHUNK + 4, np.float32)
        drawn = z[: (lead + end - start + 3) // 4 * 4]
        normal_blocks(np.uint64((first + start) // 4), step, k0, k1, drawn)
        _update(
            x_t[start:end], output[start:end], z[lead:], px, po, kp, kx, ko, sigma, clip,
            x_prev[start:end], pred_x0[start:end],
        )  # fmt: skip


@njit
def _update(x_t, output, noise, px, po, k0, kx, ko, sigma, clip, x_prev, pred_x0):
    """Compute x_{t-1} and pred_x0, flat; see kernels.reference.sampler_step."""
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
