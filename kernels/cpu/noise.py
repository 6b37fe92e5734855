"""Random streams, noising and the sampler's step, each in one pass over flat arrays."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numba import njit

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.memory import address, array_at, empty, floats, items
from minddpm.kernels.cpu.philox import CHUNK, key, normal_blocks, philox
from minddpm.kernels.cpu.recorder import here
from minddpm.kernels.cpu.task import Task, as_float32, bits, integers, task
from minddpm.kernels.float32 import float32_only

PART = 1 << 14  # numbers of a flat array that the sampler's step updates at a time


# --- random streams ------------------------------------------------------------------------------


def _blocks(draw: Task, kind: type, n: int, seed: int, purpose: int, step: int, first: int):
    """Return elements first .. first + n - 1 of a stream, cut out of blocks of four."""
    start, end = first // 4, (first + n + 3) // 4
    out = empty(4 * (end - start), kind)
    pieces, stream = threads.pieces(out.size // CHUNK), key(step, seed, purpose)
    draw(pieces, start, *stream, address(out), out.size)
    return out[first - 4 * start : first - 4 * start + n]


def random_bits(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    return _blocks(_bits, np.uint32, n, seed, purpose, step, first)


def random_uniform(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    words = random_bits(xp, n, seed, purpose, step, first)
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def random_normal(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    return _blocks(_normals, np.float32, n, seed, purpose, step, first)


@task
def _bits(piece, pieces, worker, at):
    """Draw complete blocks of random words: out uint32 [4 blocks]."""
    first_block, step, k0, k1, out_at, n = integers(at, 6)
    out = array_at(out_at, (n,), np.uint32)
    step, k0, k1 = np.uint64(step), np.uint64(k0), np.uint64(k1)
    for i in items(n // 4, piece, pieces):
        words = philox(np.uint64(first_block + i), step, k0, k1)
        for j in range(4):
            out[4 * i + j] = words[j]


@task
def _normals(piece, pieces, worker, at):
    """Draw complete blocks of standard normals: out float32 [4 blocks]."""
    first_block, step, k0, k1, out_at, n = integers(at, 6)
    out, step, k0, k1 = floats(out_at, n), np.uint64(step), np.uint64(k0), np.uint64(k1)
    for k in items(-(-n // CHUNK), piece, pieces):
        block = np.uint64(first_block + k * (CHUNK // 4))
        normal_blocks(block, step, k0, k1, out[k * CHUNK : (k + 1) * CHUNK])


# --- noising -------------------------------------------------------------------------------------


@float32_only
def q_sample(x0, noise, a, b):
    x_t = empty(x0.shape)
    arrays = (address(x) for x in (x0, noise, a, b, x_t))
    _q_sample(threads.pieces(len(x0)), *arrays, len(x0), x0.size // len(x0))
    return x_t


@float32_only
def q_sample_normal(x0, a, b, seed: int, purpose: int, step: int, first: int = 0):
    x_t, z = empty(x0.shape), empty(x0.shape)
    here.step[0], *k = key(step, seed, purpose)
    arrays = (address(x) for x in (x0, a, b, x_t, z, here.step))
    numbers = x0.size, x0.size // len(x0), first, *k
    _q_sample_normal(threads.pieces(x0.size // CHUNK), *arrays, *numbers)
    return x_t, z


@task
def _q_sample(piece, pieces, worker, at):
    """Compute x_t[n] = a[n] x0[n] + b[n] noise[n] for arrays [N, P]."""
    x0_at, noise_at, a_at, b_at, x_t_at, N, P = integers(at, 7)
    x0, noise, x_t = floats(x0_at, N * P), floats(noise_at, N * P), floats(x_t_at, N * P)
    a, b = floats(a_at, N), floats(b_at, N)
    for n in items(N, piece, pieces):
        image = slice(n * P, (n + 1) * P)
        _mix(x0[image], noise[image], a[n], b[n], x_t[image])


@task
def _q_sample_normal(piece, pieces, worker, at):
    """Compute x_t of q_sample and its noise, flat: image n is elements nP .. nP + P - 1.

    The noise is elements first, first + 1, ... of the stream.
    """
    x0_at, a_at, b_at, x_t_at, noise_at, step_at, size, P, first, k0, k1 = integers(at, 11)
    (step,) = integers(step_at, 1)
    x0, x_t, noise = floats(x0_at, size), floats(x_t_at, size), floats(noise_at, size)
    a, b = floats(a_at, size // P), floats(b_at, size // P)
    step, k0, k1 = np.uint64(step), np.uint64(k0), np.uint64(k1)
    lead = first % 4  # elements of the first block that come before `first`
    z = np.empty(CHUNK + 4, np.float32)
    for k in items(-(-size // CHUNK), piece, pieces):
        start = k * CHUNK
        end = min(start + CHUNK, size)
        drawn = z[: (lead + end - start + 3) // 4 * 4]
        normal_blocks(np.uint64((first + start) // 4), step, k0, k1, drawn)
        noise[start:end] = drawn[lead : lead + end - start]
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
    noise = x_t if noise is None else noise  # not read where sigma = 0
    return _stepped(_sampler_step, x_t, output, coefficients, clip, address(noise))


@float32_only
def sampler_step_normal(
    x_t, output, coefficients: Sequence[float], clip: bool,
    seed: int, purpose: int, step: int, first: int = 0,
):  # fmt: skip
    stream = first, *key(step, seed, purpose)
    return _stepped(_sampler_step_normal, x_t, output, coefficients, clip, *stream)


def _stepped(update: Task, x_t, output, coefficients, clip, *noise: Any):
    """Return x_prev and pred_x0 of a task with these arguments for its noise."""
    x_prev, pred_x0 = empty(x_t.shape), empty(x_t.shape)
    arrays = (address(x) for x in (x_t, output, x_prev, pred_x0))
    pieces, numbers = threads.pieces(x_t.size // CHUNK), map(bits, coefficients)
    update(pieces, *arrays, x_t.size, clip, *numbers, *noise)
    return x_prev, pred_x0


COEFFICIENTS = 6  # px, po, k0, kx, ko, sigma
NOISE = 6 + COEFFICIENTS  # arguments that come before those for the noise


@njit(inline="always")
def _coefficients_at(at):
    """Return the coefficients of _update as float32."""
    px, po, k0, kx, ko, sigma = integers(at + 8 * 6, COEFFICIENTS)
    return (
        as_float32(px), as_float32(po), as_float32(k0),
        as_float32(kx), as_float32(ko), as_float32(sigma),
    )  # fmt: skip


@task
def _sampler_step(piece, pieces, worker, at):
    x_t_at, output_at, x_prev_at, pred_x0_at, n, clip = integers(at, 6)
    (noise_at,) = integers(at + 8 * NOISE, 1)
    x_t, output, noise = floats(x_t_at, n), floats(output_at, n), floats(noise_at, n)
    x_prev, pred_x0 = floats(x_prev_at, n), floats(pred_x0_at, n)
    for k in items(-(-n // PART), piece, pieces):
        part = slice(k * PART, min((k + 1) * PART, n))
        _update(
            x_t[part], output[part], noise[part], _coefficients_at(at), clip, x_prev[part],
            pred_x0[part],
        )  # fmt: skip


@task
def _sampler_step_normal(piece, pieces, worker, at):
    """Apply _update with elements first, first + 1, ... of the stream as noise; arrays are flat."""
    x_t_at, output_at, x_prev_at, pred_x0_at, n, clip = integers(at, 6)
    first, step, k0, k1 = integers(at + 8 * NOISE, 4)
    step, k0, k1 = np.uint64(step), np.uint64(k0), np.uint64(k1)
    x_t, output = floats(x_t_at, n), floats(output_at, n)
    x_prev, pred_x0 = floats(x_prev_at, n), floats(pred_x0_at, n)
    lead = first % 4  # elements of the first block that come before `first`
    z = np.empty(CHUNK + 4, np.float32)
    for k in items(-(-n // CHUNK), piece, pieces):
        start = k * CHUNK
        end = min(start + CHUNK, n)
        drawn = z[: (lead + end - start + 3) // 4 * 4]
        normal_blocks(np.uint64((first + start) // 4), step, k0, k1, drawn)
        _update(
            x_t[start:end], output[start:end], z[lead:], _coefficients_at(at), clip,
            x_prev[start:end], pred_x0[start:end],
        )  # fmt: skip


@njit
def _update(x_t, output, noise, coefficients, clip, x_prev, pred_x0):
    """Compute x_{t-1} and pred_x0, flat; see kernels.reference.sampler_step."""
    px, po, k0, kx, ko, sigma = coefficients
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
