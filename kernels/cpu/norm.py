"""Group normalisation with or without SiLU: few passes over each picture while it is in the cache.

Forward: per-channel sums, combined into the group's mean and rstd; then
y = f((x - mean) rstd w + b). Backward, with z that argument, dz = gy f'(z) and n = (x - mean) rstd:
per-channel sums of dz and dz (x - mean); then gx = rstd (w dz - avg(w dz) - n avg(w dz n)). Between
the passes dz waits in gx.

The steps of one picture are functions of their own, over parts of its channels and lines of its
pixels: conv6_fused.py runs them on pictures that are on their way into a convolution.
"""

import math
from typing import NamedTuple

import numpy as np

from minddpm.kernels.cpu.memory import (
    address,
    clear,
    copy_pixels,
    floats,
    pairs,
    serial,
    share,
    workspace,
)
from minddpm.kernels.cpu.task import as_float, bits, integers, task
from minddpm.kernels.cpu.vector.instructions import BYTES, Emitter, W, kernel
from minddpm.kernels.cpu.vector.tile import padded_bias

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
        """dz = gy f'(z); its sums with 1 and with x - mean are added to out and second.

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
    e: Emitter, x, dz, gx, pixels, x_step, dz_step, mean, scale, slope, shift
) -> None:
    """gx = dz scale + (x - mean) slope + shift for a pair of blocks."""
    m, s, a, c = ([e.load(at, j * BYTES) for j in range(2)] for at in (mean, scale, slope, shift))

    def one(at, carried):
        for j in range(2):
            d = e.sub(e.load(at[0], j * BYTES), m[j])
            g = e.load(at[1], j * BYTES)
            e.store(e.fma(g, s[j], e.fma(d, a[j], c[j])), at[2], j * BYTES)
        return carried

    e.loop(pixels, [(x, x_step), (dz, dz_step), (gx, x_step)], [], one)


# --- the steps of one picture --------------------------------------------------------------------


class Channels(NamedTuple):
    """Addresses of what a picture's channels have in a thread's working memory, each [C]."""

    first: int
    second: int
    mean: int
    scale: int
    slope: int
    shift: int


CHANNEL_ROWS = len(Channels._fields)


@serial
def channels_at(at, C):
    """The six rows of working memory at an address."""
    step = 4 * C
    return Channels(at, at + step, at + 2 * step, at + 3 * step, at + 4 * step, at + 5 * step)


@serial
def moments(x, pixels, C, first, second, mean):
    """mean [C] of each channel, and second = sum (x - mean)^2, of a part of a picture.

    The mean first, then the squares around it: E[x^2] - E[x]^2 would cancel where |mean| >> std.
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
    """mean and rstd [G] of the groups from the channels'; each channel then has its group's mean
    and scale = rstd weight.
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
            apart = means[c] - m
            var += seconds[c] / pixels + apart * apart
        r = 1 / math.sqrt(var / size + eps)
        mean[g], rstd[g] = m, r
        for c in range(g * size, (g + 1) * size):
            means[c], scales[c] = m, r * w[c]


@serial
def spread_groups(at, C, groups, weight, mean_in, rstd_in):
    """Each channel's mean and scale = rstd weight, from the groups'."""
    size = C // groups
    means, scales, w = floats(at.mean, C), floats(at.scale, C), floats(weight, C)
    mean, rstd = floats(mean_in, groups), floats(rstd_in, groups)
    for c in range(C):
        means[c], scales[c] = mean[c // size], rstd[c // size] * w[c]


@serial
def normalise(x, y, pixels, C, x_step, y_step, silu, mean, scale, bias):
    """y = f((x - mean) scale + bias) for neighbouring pixels, C of whose channels are taken."""
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
    """dz of neighbouring pixels; first += dz and second += dz (x - mean), channel by channel."""
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
    """gw and gb grow by the channels' sums; slope and shift for `gradient` come from them."""
    size = C // groups
    firsts, seconds = floats(at.first, C), floats(at.second, C)
    slopes, shifts = floats(at.slope, C), floats(at.shift, C)
    w, rstd = floats(weight, C), floats(rstd_in, groups)
    gw, gb = floats(gw_out, C), floats(gb_out, C)
    for g in range(groups):
        r = rstd[g]
        plain, tilted = 0.0, 0.0  # sums of w dz and of w dz n
        for c in range(g * size, (g + 1) * size):
            gw[c] += seconds[c] * r
            gb[c] += firsts[c]
            plain += w[c] * firsts[c]
            tilted += w[c] * seconds[c] * r
        for c in range(g * size, (g + 1) * size):
            slopes[c] = -r * r * tilted / (size * pixels)
            shifts[c] = -r * plain / (size * pixels)


@serial
def gradient(x, dz, gx, pixels, C, x_step, dz_step, mean, scale, slope, shift):
    """gx = dz scale + (x - mean) slope + shift for neighbouring pixels."""
    for c in range(0, C, PAIR):
        at = 4 * c
        backward_apply(
            (
                x + at, dz + at, gx + at, pixels, x_step, dz_step, mean + at, scale + at,
                slope + at, shift + at,
            )
        )  # fmt: skip


# --- whole batches -------------------------------------------------------------------------------


@task
def _forward(t, threads, arguments):
    N, P, C, groups, eps, silu, x, weight, bias, y, mean, rstd, space, row = integers(arguments, 14)
    space += t * row
    Cp = pairs(C) * W
    at, buffer = channels_at(space, Cp), space + CHANNEL_ROWS * Cp * 4
    if Cp != C:  # whole vectors only: other pictures go by way of a wider one
        clear(buffer, P * Cp)
    for n in range(share(N, t, threads), share(N, t + 1, threads)):
        from_x, to = x + n * P * C * 4, y + n * P * C * 4
        if Cp != C:
            copy_pixels(from_x, buffer, P, C, 4 * C, 4 * Cp)
            from_x = to = buffer
        moments(from_x, P, Cp, at.first, at.second, at.mean)
        out = n * groups * 4
        group_moments(at, C, groups, P, as_float(eps), weight, mean + out, rstd + out)
        normalise(from_x, to, P, Cp, 4 * Cp, 4 * Cp, silu, at.mean, at.scale, bias)
        if Cp != C:
            copy_pixels(buffer, y + n * P * C * 4, P, C, 4 * Cp, 4 * C)


@task
def _backward(t, threads, arguments):
    (
        N, P, C, groups, silu, gy, x, weight, bias, mean, rstd, gx, gw, gb, sums_row, space, row,
    ) = integers(arguments, 17)  # fmt: skip
    gw, gb, space = gw + t * sums_row, gb + t * sums_row, space + t * row
    Cp = pairs(C) * W
    at, step = channels_at(space, Cp), 4 * Cp
    wide_x = space + CHANNEL_ROWS * Cp * 4
    wide_g = wide_x + P * Cp * 4
    if Cp != C:
        clear(wide_x, 2 * P * Cp)
    clear(gw, C)
    clear(gb, C)
    for n in range(share(N, t, threads), share(N, t + 1, threads)):
        shift = n * P * C * 4
        from_x, from_gy, to, stats = x + shift, gy + shift, gx + shift, n * groups * 4
        if Cp != C:
            copy_pixels(from_x, wide_x, P, C, 4 * C, 4 * Cp)
            copy_pixels(from_gy, wide_g, P, C, 4 * C, 4 * Cp)
            from_x, from_gy, to = wide_x, wide_g, wide_g
        spread_groups(at, C, groups, weight, mean + stats, rstd + stats)
        clear(at.first, 2 * Cp)  # and second, behind it
        gradient_sums(
            from_x, from_gy, to, P, Cp, step, step, silu, at.mean, at.scale, bias, at.first,
            at.second,
        )  # fmt: skip
        group_slopes(at, C, groups, P, weight, rstd + stats, gw, gb)
        gradient(from_x, to, to, P, Cp, step, step, at.mean, at.scale, at.slope, at.shift)
        if Cp != C:
            copy_pixels(wide_g, gx + shift, P, C, 4 * Cp, 4 * C)


def _floats(P: int, C: int, pictures: int) -> int:
    """What a thread needs; `pictures` wide ones only where C is not whole pairs of blocks."""
    Cp = pairs(C) * W
    return CHANNEL_ROWS * Cp + (pictures * P * Cp if Cp != C else 0)


def forward(x, weight, bias, groups, eps, silu):
    """y, mean, rstd of kernels.reference.group_norm (or group_norm_silu)."""
    N, C = x.shape[0], x.shape[-1]
    y = np.empty_like(x)
    mean, rstd = np.empty((N, groups), np.float32), np.empty((N, groups), np.float32)
    P, wide = x[0].size // C, padded_bias(bias, C)
    space = workspace(_floats(P, C, 1))
    _forward(
        len(space), N, P, C, groups, bits(eps), silu, address(x), address(weight),
        address(wide), address(y), address(mean), address(rstd), address(space), space.strides[0],
    )  # fmt: skip
    return y, mean, rstd


def backward(gy, x, weight, bias, mean, rstd, groups, silu):
    """gx, gw, gb of kernels.reference.group_norm_backward (or group_norm_silu_backward)."""
    N, C = x.shape[0], x.shape[-1]
    P, wide = x[0].size // C, padded_bias(bias, C)
    gx, space = np.empty_like(x), workspace(_floats(P, C, 2))
    gw, gb = np.empty((len(space), C), np.float32), np.empty((len(space), C), np.float32)
    _backward(
        len(space), N, P, C, groups, silu, address(gy), address(x), address(weight),
        address(wide), address(mean), address(rstd), address(gx), address(gw), address(gb),
        gw.strides[0], address(space), space.strides[0],
    )  # fmt: skip
    return gx, gw.sum(axis=0), gb.sum(axis=0)
