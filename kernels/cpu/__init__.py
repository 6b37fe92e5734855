"""The hot operations in Numba, under the names and signatures of kernels/reference.py.

Read vector.py (how a kernel is written), gemm.py (the register tile), ladder.py with its rungs,
transposed.py, norm.py, attention.py, pointwise.py, noise.py, threads.py.

float32 only: other types (gradient checks use float64) go to the reference.
"""

import math
import sys
from collections.abc import Callable, Sequence
from types import ModuleType

import numpy as np

from minddpm.kernels import reference
from minddpm.kernels.cpu.cache import own_cache
from minddpm.kernels.float32 import float32_only
from minddpm.kernels.pixels import are_pixels, pixels_backward
from minddpm.kernels.reference import clip_scale, philox4x32, replayed, timestep_features
from minddpm.kernels.shapes import SAME, Padding

with own_cache():
    from minddpm.kernels.cpu import attention as _attention
    from minddpm.kernels.cpu import linear as rows
    from minddpm.kernels.cpu import norm, pointwise, transposed
    from minddpm.kernels.cpu import philox as _noise
    from minddpm.kernels.cpu import silu as _silu
    from minddpm.kernels.cpu import threads as _threads
    from minddpm.kernels.cpu.constant_weights import constant_weights
    from minddpm.kernels.cpu.ladder import conv4_winograd as winograd
    from minddpm.kernels.cpu.ladder.choose import choose, fused_tile, is_wide_3x3
    from minddpm.kernels.cpu.ladder.layer import Sources, layer
    from minddpm.kernels.cpu.memory import keep_freed_memory
    from minddpm.kernels.cpu.vector.instructions import W

_threads.start()
keep_freed_memory()

THIS = sys.modules[__name__]

__all__ = [
    "adam", "add", "add_all", "add_to", "attention", "attention_backward", "clip_scale",
    "constant_weights", "conv2d", "conv2d_backward", "conv_transpose2d",
    "conv_transpose2d_backward", "dropout", "ema", "group_norm", "group_norm_backward",
    "group_norm_silu", "group_norm_silu_backward", "linear", "linear_backward", "linears",
    "linears_backward", "norm_silu_conv2d",
    "norm_silu_conv2d_backward", "philox4x32", "q_sample", "q_sample_normal", "random_bits",
    "random_normal", "random_uniform", "replayed", "sampler_step", "sampler_step_normal", "silu",
    "silu_backward", "squared_norm", "timestep_features", "upsample_conv2d",
    "upsample_conv2d_backward", "upsample_nearest", "upsample_nearest_backward",
]  # fmt: skip


# --- convolution and linear layers ---------------------------------------------------------------


@float32_only
def conv2d(x, w, b, stride: int, padding: Padding):
    return choose(x.shape, w.shape, stride, padding).forward(x, w, b, stride, padding)


@float32_only
def conv2d_backward(gy, x, w, stride: int, padding: Padding, need_gx: bool = True, partial=None):
    rung = choose(x.shape, w.shape, stride, padding)
    gx, gw, gb = rung.backward(gy, x, w, stride, padding, need_gx)
    return add_to(gx, partial), gw, gb


@float32_only
def conv_transpose2d(x, w, b, stride: int, padding: Padding):
    return transposed.conv_transpose2d(x, w, b, stride, padding)


@float32_only
def conv_transpose2d_backward(
    gy, x, w, stride: int, padding: Padding, need_gx: bool = True, partial=None
):
    if are_pixels(x.shape, padding):
        return pixels_backward(THIS, gy, x, w, need_gx, partial)
    if transposed.is_of_the_ladder(gy.shape, w.shape, stride, padding):
        return reference.conv_transpose2d_backward(
            gy, x, w, stride, padding, need_gx, partial, kernels=THIS
        )
    gx, gw, gb = transposed.backward(gy, x, w, stride, padding, need_gx)
    return add_to(gx, partial), gw, gb


@float32_only
def linear(xs, w, b, extra=None):
    return add_to(rows.linear(xs, w, b), extra)


@float32_only
def linear_backward(gy, xs, w, partial=()):
    gxs, gw, gb = rows.linear_backward(gy, xs, w)
    return add_all(gxs, partial), gw, gb


def linears(x, ws, bs):
    return reference.linears(x, ws, bs, kernels=THIS)


def linears_backward(gys, x, ws, partial=None):
    return reference.linears_backward(gys, x, ws, partial, kernels=THIS)


@float32_only
def upsample_conv2d(x, w, b):
    if not is_wide_3x3(x.shape, w.shape, 1, SAME):
        return conv2d(upsample_nearest(x), w, b, 1, SAME)
    s = layer((x,), w.shape, SAME, _doubled_tile(x, w), up=2)
    return winograd.forward(s, Sources.of((x,)), w, b)


@float32_only
def upsample_conv2d_backward(gy, x, w):
    if not is_wide_3x3(x.shape, w.shape, 1, SAME):
        gx, gw, gb = conv2d_backward(gy, upsample_nearest(x), w, 1, SAME)
        return upsample_nearest_backward(gx), gw, gb
    s = layer((x,), w.shape, SAME, _doubled_tile(x, w), up=2, backward=True)
    gx = np.empty_like(x)
    gw, gb, _ = winograd.backward(s, Sources.of((x,)), gy, w, (gx,))
    return gx, gw, gb.sum(axis=0)


def _doubled_tile(x, w) -> int:
    N, H, W, C = x.shape
    return fused_tile((N, 2 * H, 2 * W, C), w.shape)


def _can_fuse(xs, w) -> bool:
    return (
        is_wide_3x3(xs[0].shape, w.shape, 1, SAME)
        and all(x.shape[-1] % norm.PAIR == 0 for x in xs)
        and len(xs) <= 2
    )


@float32_only
def norm_silu_conv2d(xs, norm_weight, norm_bias, groups: int, eps: float, w, b, shift, extra):
    if not _can_fuse(xs, w):
        return reference.norm_silu_conv2d(
            xs, norm_weight, norm_bias, groups, eps, w, b, shift, extra, kernels=THIS
        )
    b = b if shift is None else b + shift
    s = layer(xs, w.shape, SAME, fused_tile(xs[0].shape, w.shape), groups=groups, eps=eps)
    mean, rstd = (np.empty((s.N, groups), np.float32) for _ in range(2))
    source = Sources.of(xs, norm_weight, norm_bias, mean, rstd)
    return winograd.forward(s, source, w, b, extra), (mean, rstd)


@float32_only
def norm_silu_conv2d_backward(gy, xs, norm_weight, norm_bias, saved, groups: int, w, partial=()):
    if not _can_fuse(xs, w):
        return reference.norm_silu_conv2d_backward(
            gy, xs, norm_weight, norm_bias, saved, groups, w, partial, kernels=THIS
        )
    M = fused_tile(xs[0].shape, w.shape)
    s = layer(xs, w.shape, SAME, M, groups=groups, backward=True)
    source = Sources.of(xs, norm_weight, norm_bias, *saved)
    gxs = tuple(np.empty_like(x) for x in xs)
    gw, gshift, (gweight, gbias) = winograd.backward(s, source, gy, w, gxs)
    return add_all(gxs, partial), gweight, gbias, gw, gshift.sum(axis=0), gshift


# --- normalisation, activation, attention, upsampling --------------------------------------------


@float32_only
def group_norm(x, weight, bias, groups: int, eps: float):
    return norm.forward(x, weight, bias, groups, eps, False)


@float32_only
def group_norm_backward(gy, x, weight, mean, rstd, groups: int, partial=None):
    gx, gw, gb = norm.backward(gy, x, weight, weight, mean, rstd, groups, False)
    return add_to(gx, partial), gw, gb


@float32_only
def group_norm_silu(x, weight, bias, groups: int, eps: float):
    return norm.forward(x, weight, bias, groups, eps, True)


@float32_only
def group_norm_silu_backward(gy, x, weight, bias, mean, rstd, groups: int):
    return norm.backward(gy, x, weight, bias, mean, rstd, groups, True)


@float32_only
def silu(x):
    if x.size < W:
        return reference.silu(x)
    y = np.empty_like(x)
    _silu.forward(x, y)
    return y


@float32_only
def silu_backward(gy, x):
    if x.size < W:
        return reference.silu_backward(gy, x)
    gx = np.empty_like(x)
    _silu.backward(gy, x, gx)
    return gx


@float32_only
def attention(q, k, v, heads: int):
    y = np.empty_like(q)
    _attention.forward(q, k, v, heads, y)
    return y


@float32_only
def attention_backward(gy, q, k, v, heads: int):
    gq, gk, gv = np.empty_like(q), np.empty_like(q), np.empty_like(q)
    _attention.backward(gy, q, k, v, heads, gq, gk, gv)
    return gq, gk, gv


@float32_only
def dropout(x, p: float, seed: int, purpose: int, step: int):
    y = np.empty_like(x)
    factor = np.float32(1 / (1 - p))
    _noise.dropout(x.reshape(-1), p, factor, *_key(step, seed, purpose), y.reshape(-1))
    return y


@float32_only
def upsample_nearest(x):
    N, H, W, C = x.shape
    y = np.empty((N, 2 * H, 2 * W, C), np.float32)
    pointwise.upsample(x, y)
    return y


@float32_only
def upsample_nearest_backward(gy):
    N, H2, W2, C = gy.shape
    gx = np.empty((N, H2 // 2, W2 // 2, C), np.float32)
    pointwise.upsample_backward(gy, gx)
    return gx


# --- sums of gradients ---------------------------------------------------------------------------


FEW = 1 << 16  # numbers that NumPy has added before the threads would have begun


@float32_only
def add(a, b):
    if a.size < FEW:
        return reference.add(a, b)
    total = np.empty_like(a)
    pointwise.add(a.reshape(-1), b.reshape(-1), total.reshape(-1))
    return total


def add_to(total, x):
    if x is None:
        return total
    contiguous = all(a.dtype == np.float32 and a.flags.c_contiguous for a in (total, x))
    if total.size < FEW or not contiguous:
        return reference.add_to(total, x)
    pointwise.add(total.reshape(-1), x.reshape(-1), total.reshape(-1))
    return total


def add_all(totals, xs):
    for total, x in zip(totals, xs or (None,) * len(totals), strict=True):
        add_to(total, x)
    return totals


# --- diffusion and optimiser ---------------------------------------------------------------------


@float32_only
def q_sample(x0, noise, a, b):
    x_t, flat = np.empty_like(x0), (len(x0), -1)
    pointwise.q_sample(x0.reshape(flat), noise.reshape(flat), a, b, x_t.reshape(flat))
    return x_t


@float32_only
def sampler_step(x_t, output, noise, coefficients: Sequence[float], clip: bool):
    x_prev, pred_x0 = np.empty_like(x_t), np.empty_like(x_t)
    noise = x_t if noise is None else noise  # not read where sigma = 0
    flat = [a.reshape(-1) for a in (x_t, output, noise)]
    numbers = [np.float32(c) for c in coefficients]
    pointwise.sampler_step(*flat, *numbers, clip, x_prev.reshape(-1), pred_x0.reshape(-1))
    return x_prev, pred_x0


@float32_only
def q_sample_normal(x0, a, b, seed: int, purpose: int, step: int):
    x_t, z, P = np.empty_like(x0), np.empty_like(x0), x0.size // len(x0)
    key = _key(step, seed, purpose)
    _noise.q_sample(x0.reshape(-1), a, b, P, *key, x_t.reshape(-1), z.reshape(-1))
    return x_t, z


@float32_only
def sampler_step_normal(
    x_t, output, coefficients: Sequence[float], clip: bool,
    seed: int, purpose: int, step: int, first: int = 0,
):  # fmt: skip
    x_prev, pred_x0 = np.empty_like(x_t), np.empty_like(x_t)
    numbers, key = [np.float32(c) for c in coefficients], _key(step, seed, purpose)
    results = x_prev.reshape(-1), pred_x0.reshape(-1)
    _noise.sampler_step(x_t.reshape(-1), output.reshape(-1), *numbers, clip, first, *key, *results)
    return x_prev, pred_x0


def adam(
    param, grad, m, v, average, step: int, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, grad_scale: float, ema_decay: float,
):  # fmt: skip
    if not math.isfinite(grad_scale):
        return
    numbers = (
        lr / (1 - beta1**step), beta1, beta2, eps, 1 - lr * weight_decay, grad_scale,
        1 / math.sqrt(1 - beta2**step), 1 - ema_decay,
    )  # fmt: skip
    pointwise.adam(param, grad, m, v, average, *(np.float32(x) for x in numbers))


def ema(average, param, decay: float):
    pointwise.ema(average, param, np.float32(1 - decay))


@float32_only
def squared_norm(x):
    parts = np.empty(-(-x.size // pointwise.PART))
    pointwise.squared_norm(x, parts)
    return parts.sum()


# --- random numbers ------------------------------------------------------------------------------


def _key(step: int, seed: int, purpose: int) -> tuple[np.uint64, ...]:
    return np.uint64(step), np.uint64(seed), np.uint64(purpose)


def _blocks(kernel: Callable, kind: type, n: int, seed: int, purpose: int, step: int, first: int):
    """Elements first .. first + n - 1 of a stream, by way of whole blocks of four."""
    start, end = first // 4, (first + n + 3) // 4
    out = np.empty(4 * (end - start), kind)
    kernel(np.uint64(start), *_key(step, seed, purpose), out)
    return out[first - 4 * start : first - 4 * start + n]


def random_bits(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    return _blocks(_noise.bits, np.uint32, n, seed, purpose, step, first)


def random_uniform(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    words = random_bits(xp, n, seed, purpose, step, first)
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)


def random_normal(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    return _blocks(_noise.normals, np.float32, n, seed, purpose, step, first)
