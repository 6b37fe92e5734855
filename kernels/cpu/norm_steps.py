"""The passes of group normalisation over one image, with or without SiLU, forward and backward.

Forward: per-channel sums, combined into the group's mean and rstd; then
y = f(z) with z = n w + b, n = (x - mean) rstd. Backward, with dz = gy f'(z): per-channel
sums of dz and dz (x - mean); then gx = rstd (w dz - avg(w dz) - n avg(w dz n)). Between the passes
dz is stored in gx.

Each pass is a separate function over some channels of neighbouring pixels. norm.py runs the passes
on batches, ladder/conv6_fused.py on each image while copying it into a convolution.
"""

import math
from typing import NamedTuple

from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.memory import clear, floats
from minddpm.kernels.cpu.vector.instructions import BYTES, Emitter, kernel
from minddpm.kernels.cpu.vector.tile import PAIR  # with AVX2 a pair of blocks is one cache line


@kernel
def sums(e: Emitter, x, pixels, step, pivot, out, second) -> None:
    """Sum x - pivot into out, (x - pivot)^2 into second, over the pixels for a pair of blocks."""
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
    def apply(e: Emitter, x, y, pixels, x_step, y_step, mean, scale, bias) -> None:
        """y = f((x - mean) scale + bias) for a pair of blocks."""
        m, s, b = ([e.load(at, j * BYTES) for j in range(2)] for at in (mean, scale, bias))

        def one(at, carried):
            for j in range(2):
                z = e.fma(e.sub(e.load(at[0], j * BYTES), m[j]), s[j], b[j])
                e.store(e.mul(z, e.sigmoid(z)) if with_silu else z, at[1], j * BYTES)
            return carried

        e.loop(pixels, [(x, x_step), (y, y_step)], [], one)

    apply.__name__ = f"apply_{with_silu}"
    return kernel(apply)


apply_plain, apply_silu = _apply(False), _apply(True)


def _backward_sums(with_silu: bool):
    def backward_sums(
        e: Emitter, x, gy, dz, pixels, x_step, gy_step, mean, scale, bias, out, second
    ) -> None:
        """Compute dz = gy f'(z); add its sum to out and the sum of dz (x - mean) to second.

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

        before = [e.load(to, j * BYTES) for j in range(2) for to in (out, second)]
        acc = e.loop(pixels, [(x, x_step), (gy, gy_step), (dz, gy_step)], before, one)
        for j in range(2):
            e.store(acc[2 * j], out, j * BYTES)
            e.store(acc[2 * j + 1], second, j * BYTES)

    backward_sums.__name__ = f"backward_sums_{with_silu}"
    return kernel(backward_sums)


backward_sums_plain, backward_sums_silu = _backward_sums(False), _backward_sums(True)


@kernel
def backward_apply(
    e: Emitter, x, dz, gx, pixels, x_step, dz_step, mean, scale, slope, shift, more, more_step
) -> None:
    """gx = dz scale + (x - mean) slope + shift + more for a pair of blocks."""
    m, s, a, c = ([e.load(at, j * BYTES) for j in range(2)] for at in (mean, scale, slope, shift))

    def one(at, carried):
        for j in range(2):
            d = e.sub(e.load(at[0], j * BYTES), m[j])
            g = e.load(at[1], j * BYTES)
            gradient = e.fma(g, s[j], e.fma(d, a[j], c[j]))
            e.store(e.add(gradient, e.load(at[3], j * BYTES)), at[2], j * BYTES)
        return carried

    e.loop(pixels, [(x, x_step), (dz, dz_step), (gx, x_step), (more, more_step)], [], one)


# --- the passes over one image -------------------------------------------------------------------


class Channels(NamedTuple):
    """Addresses of an image's per-channel values in a thread's working memory, each [C]."""

    first: int
    second: int
    mean: int
    scale: int
    slope: int
    shift: int
    zeros: int


CHANNEL_ROWS = len(Channels._fields)


@serial
def channels_at(at, C):
    """Return the addresses of seven rows of working memory that begin at address `at`."""
    step = 4 * C
    clear(at + 6 * step, C)
    return Channels(
        at, at + step, at + 2 * step, at + 3 * step, at + 4 * step, at + 5 * step, at + 6 * step
    )


@serial
def moments(x, pixels, C, first, second, mean):
    """Compute each channel's mean [C] and second = sum (x - mean)^2 over part of an image.

    Squared deviations from the mean: E[x^2] - E[x]^2 would cancel where |mean| >> std.
    """
    means, sum_x, pivot = floats(mean, C), floats(first, C), floats(x, C)
    for c in range(C):
        means[c] = pivot[c]
    for _ in range(2):
        for c in range(0, C, PAIR):
            sums((x + 4 * c, pixels, 4 * C, mean + 4 * c, first + 4 * c, second + 4 * c))
        for c in range(C):
            means[c] += sum_x[c] / pixels


@serial
def group_moments(at, C, groups, pixels, eps, weight, mean_out, rstd_out):
    """Compute mean and rstd [G] of the groups from the channels' moments.

    Afterwards each channel holds its group's mean and scale = rstd weight.
    """
    size = C // groups
    means, seconds, scales = floats(at.mean, C), floats(at.second, C), floats(at.scale, C)
    w, mean, rstd = floats(weight, C), floats(mean_out, groups), floats(rstd_out, groups)
    for g in range(groups):
        m = 0.0
        for c in range(g * size, (g + 1) * size):
            m += means[c]
        m /= size
        var = 0.0
        for c in range(g * size, (g + 1) * size):
            deviation = means[c] - m
            var += seconds[c] / pixels + deviation * deviation
        r = 1 / math.sqrt(var / size + eps)
        mean[g], rstd[g] = m, r
        for c in range(g * size, (g + 1) * size):
            means[c], scales[c] = m, r * w[c]


@serial
def spread_groups(at, C, groups, weight, mean_in, rstd_in):
    """Set each channel's mean and scale = rstd weight from its group's mean and rstd."""
    size = C // groups
    means, scales, w = floats(at.mean, C), floats(at.scale, C), floats(weight, C)
    mean, rstd = floats(mean_in, groups), floats(rstd_in, groups)
    for c in range(C):
        means[c], scales[c] = mean[c // size], rstd[c // size] * w[c]


@serial
def normalise(x, y, pixels, C, x_step, y_step, silu, mean, scale, bias):
    """y = f((x - mean) scale + bias) for C channels of neighbouring pixels."""
    for c in range(0, C, PAIR):
        at = 4 * c
        arguments = (
            x + at, y + at, pixels, x_step, y_step, mean + at, scale + at, bias + at
        )  # fmt: skip
        if silu:
            apply_silu(arguments)
        else:
            apply_plain(arguments)


@serial
def gradient_sums(x, gy, dz, pixels, C, x_step, gy_step, silu, mean, scale, bias, first, second):
    """Compute dz of neighbouring pixels; per channel, first += dz, second += dz (x - mean)."""
    for c in range(0, C, PAIR):
        at = 4 * c
        arguments = (
            x + at, gy + at, dz + at, pixels, x_step, gy_step, mean + at, scale + at, bias + at,
            first + at, second + at,
        )  # fmt: skip
        if silu:
            backward_sums_silu(arguments)
        else:
            backward_sums_plain(arguments)


@serial
def group_slopes(at, C, groups, pixels, weight, rstd_in, gw_out, gb_out):
    """Add the channels' sums to gw and gb, and compute slope and shift for `gradient` from them."""
    size = C // groups
    firsts, seconds = floats(at.first, C), floats(at.second, C)
    slopes, shifts = floats(at.slope, C), floats(at.shift, C)
    w, rstd = floats(weight, C), floats(rstd_in, groups)
    gw, gb = floats(gw_out, C), floats(gb_out, C)
    for g in range(groups):
        r = rstd[g]
        sum_dz, sum_dz_n = 0.0, 0.0  # sums of w dz and of w dz n
        for c in range(g * size, (g + 1) * size):
            gw[c] += seconds[c] * r
            gb[c] += firsts[c]
            sum_dz += w[c] * firsts[c]
            sum_dz_n += w[c] * seconds[c] * r
        for c in range(g * size, (g + 1) * size):
            slopes[c] = -r * r * sum_dz_n / (size * pixels)
            shifts[c] = -r * sum_dz / (size * pixels)


@serial
def gradient(x, dz, gx, pixels, C, x_step, dz_step, mean, scale, slope, shift, more, zeros):
    """gx = dz scale + (x - mean) slope + shift + more for neighbouring pixels.

    more: an image like x, or 0 for none; then zeros [C] are added.
    """
    more, more_step = (more, x_step) if more else (zeros, 0)
    for c in range(0, C, PAIR):
        at = 4 * c
        backward_apply(
            (
                x + at, dz + at, gx + at, pixels, x_step, dz_step, mean + at, scale + at,
                slope + at, shift + at, more + at, more_step,
            )
        )  # fmt: skip
