"""The hot operations in raw CUDA C, under the names and signatures of kernels/reference.py.

The .cu files are the kernels; launch.py compiles and launches them; convolution.py and winograd.py
know the convolution's sizes and rungs. They need an array library called cupy, which may be the
stand-in that runs them on the CPU (kernels/emulator).

float32 only: other types (gradient checks use float64) go to the reference. Inside, silu(norm(x))
before a 3x3 convolution on tensor cores is stored as they read it (convolution.stored_as).
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from minddpm.kernels import reference
from minddpm.kernels.cuda import convolution, winograd
from minddpm.kernels.cuda import linear as _linears
from minddpm.kernels.cuda.convolution import BFLOAT16, Sizes, two
from minddpm.kernels.cuda.launch import FOLDER, blocks, counters, cupy, each, is_array, launch
from minddpm.kernels.cuda.replay import replayed
from minddpm.kernels.float32 import float32_only
from minddpm.kernels.pixels import are_pixels, pixels_backward, window_columns
from minddpm.kernels.reference import constant_weights, philox4x32
from minddpm.kernels.shapes import SAME, Padding, cut, joined, transposed_shape

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

# of norm.cu, by the type of what it writes (narrow.cuh)
NORM_OPTIONS = {"float32": (), "float16": ("-DSTORED",), BFLOAT16: ("-DSTORED", "-DBF16")}
WIDEST_HEAD = 256  # channels of an attention head (attention.cu)


def files() -> list[Path]:
    """The .cu files, rungs of a ladder in their order."""
    return sorted(FOLDER.glob("*.cu"))


def _empty(*shapes):
    return tuple(cupy().empty(shape, "float32") for shape in shapes)


# --- convolution and linear layers ---------------------------------------------------------------


def _convolved(xs, w, b, stride, padding, up=0, shift=None, extra=None):
    s = Sizes.of(xs, w.shape, stride, padding, up)
    (y,) = _empty((s.N, s.OH, s.OW, s.K))
    forward = winograd.forward if winograd.pays(s, xs, up) else convolution.forward
    forward(s, xs, w, b, y, up=up, shift=shift, extra=extra)
    return y


def _gradients(gy, xs, w, stride, padding, up=0, need_gx=True, partial=()):
    s = Sizes.of(xs, w.shape, stride, padding, up)
    backward = winograd.backward if winograd.pays(s, xs, up) else convolution.backward
    return backward(s, gy, xs, w, up=up, need_gx=need_gx, partial=partial)


@float32_only
def conv2d(x, w, b, stride: int, padding: Padding):
    return _convolved((x,), w, b, stride, padding)


@float32_only
def conv2d_backward(gy, x, w, stride: int, padding: Padding, need_gx: bool = True, partial=None):
    g = _gradients(gy, (x,), w, stride, padding, need_gx=need_gx, partial=(partial,))
    return g.gxs[0] if need_gx else None, g.w, g.bias


@float32_only
def conv_transpose2d(x, w, b, stride: int, padding: Padding):
    shape = transposed_shape(x.shape, w.shape, stride, padding)
    if are_pixels(x.shape, padding):
        bias = cupy().tile(b, shape[1] * shape[2])
        return linear((x[:, 0, 0],), window_columns(w), bias).reshape(shape)
    (y,) = _empty(shape)
    convolution.transposed(Sizes.of((y,), w.shape, stride, padding), x, w, b, y)
    return y


@float32_only
def conv_transpose2d_backward(
    gy, x, w, stride: int, padding: Padding, need_gx: bool = True, partial=None
):
    if are_pixels(x.shape, padding):
        return pixels_backward(THIS, gy, x, w, need_gx, partial)
    gx = _convolved((gy,), w, None, stride, padding, extra=partial) if need_gx else None
    gw = _gradients(x, (gy,), w, stride, padding, need_gx=False).w
    return gx, gw, convolution.sum_pixels(gy)[1]


@float32_only
def linear(xs, w, b, extra=None):
    (y,) = _empty((*xs[0].shape[:-1], w.shape[1]))
    if len(xs) > 2:
        xs = (joined(xs),)
    convolution.forward(Sizes.linear(xs, w.shape), xs, w, b, y, extra=extra)
    return y


@float32_only
def linear_backward(gy, xs, w, partial=()):
    if len(xs) > 2:
        gxs, gw, gb = linear_backward(gy, (joined(xs),), w)
        return add_all(cut(gxs[0], xs), partial), gw, gb
    g = convolution.backward(Sizes.linear(xs, w.shape), gy, xs, w, partial=partial)
    return g.gxs, g.w, g.bias


@float32_only
def linears(x, ws, bs):
    return _linears.forward(x, ws, bs)


@float32_only
def linears_backward(gys, x, ws, partial=None):
    return _linears.backward(gys, x, ws, partial)


@float32_only
def upsample_conv2d(x, w, b):
    return _convolved((x,), w, b, 1, SAME, up=1)


@float32_only
def upsample_conv2d_backward(gy, x, w):
    g = _gradients(gy, (x,), w, 1, SAME, up=1)
    return g.gxs[0], g.w, g.bias


@float32_only
def norm_silu_conv2d(xs, norm_weight, norm_bias, groups: int, eps: float, w, b, shift, extra):
    if len(xs) > 2:
        xs = (joined(xs),)
    # On a GPU memory is less scarce than time: h is saved, not made again.
    stored = convolution.stored_as(Sizes.of(xs, w.shape, 1, SAME))
    h, mean, rstd = _norm(xs, norm_weight, norm_bias, groups, eps, True, stored)
    return _convolved((h,), w, b, 1, SAME, shift=shift, extra=extra), (mean, rstd, h)


@float32_only
def norm_silu_conv2d_backward(gy, xs, norm_weight, norm_bias, saved, groups: int, w, partial=()):
    if len(xs) > 2:
        one = (joined(xs),)
        gxs, *others = norm_silu_conv2d_backward(gy, one, norm_weight, norm_bias, saved, groups, w)
        return add_all(cut(gxs[0], xs), partial), *others
    mean, rstd, h = saved
    g = _gradients(gy, (h,), w, 1, SAME)
    gxs, gweight, gbias = _norm_backward(
        g.gxs[0], xs, norm_weight, norm_bias, mean, rstd, groups, True, partial
    )
    return gxs, gweight, gbias, g.w, g.bias, g.shift


# --- normalisation, activation, attention, upsampling --------------------------------------------


def _norm(xs, weight, bias, groups, eps, with_silu, stored="float32"):
    N, C = xs[0].shape[0], len(weight)
    P, C1 = xs[0].size // (N * xs[0].shape[-1]), xs[0].shape[-1]
    y = cupy().empty((*xs[0].shape[:-1], C), stored)
    mean, rstd = _empty((N, groups), (N, groups))
    launch(
        "norm.cu", "group_norm", (groups, N), (256,), *two(xs), C1, weight, bias, y, mean, rstd,
        P, C, C // groups, eps, with_silu, options=NORM_OPTIONS[stored],
    )  # fmt: skip
    return y, mean, rstd


def _norm_backward(gy, xs, weight, bias, mean, rstd, groups, with_silu, partial=()):
    N, C = xs[0].shape[0], len(weight)
    P, C1 = xs[0].size // (N * xs[0].shape[-1]), xs[0].shape[-1]
    gxs = _empty(*(x.shape for x in xs))
    gweight, gbias, sums = _empty(C, C, (2, N, C))
    launch(
        "norm.cu", "group_norm_backward", (groups, N), (256,), gy, *two(xs), C1, weight, bias,
        mean, rstd, *two(partial), *two(gxs), gweight, gbias, sums, counters(groups), P, C,
        C // groups, with_silu,
    )  # fmt: skip
    return gxs, gweight, gbias


@float32_only
def group_norm(x, weight, bias, groups: int, eps: float):
    return _norm((x,), weight, bias, groups, eps, False)


@float32_only
def group_norm_backward(gy, x, weight, mean, rstd, groups: int, partial=None):
    arrays = gy, (x,), weight, weight, mean, rstd
    (gx,), gweight, gbias = _norm_backward(*arrays, groups, False, (partial,))
    return gx, gweight, gbias


@float32_only
def group_norm_silu(x, weight, bias, groups: int, eps: float):
    return _norm((x,), weight, bias, groups, eps, True)


@float32_only
def group_norm_silu_backward(gy, x, weight, bias, mean, rstd, groups: int):
    (gx,), gweight, gbias = _norm_backward(gy, (x,), weight, bias, mean, rstd, groups, True)
    return gx, gweight, gbias


@float32_only
def silu(x):
    (y,) = _empty(x.shape)
    each("pointwise.cu", "silu", x.size, x, y, x.size)
    return y


@float32_only
def silu_backward(gy, x):
    (gx,) = _empty(x.shape)
    each("pointwise.cu", "silu_backward", x.size, gy, x, gx, x.size)
    return gx


def _attention(name: str, q, heads: int, *arrays) -> None:
    N, L, C = q.shape
    D = C // heads
    launch(
        "attention.cu", name, (blocks(L, 7), heads, N), (32, 7), *arrays, L, D,
        shared=4 * (32 * (D + 1) + 14 * D),
    )  # fmt: skip


@float32_only
def attention(q, k, v, heads: int):
    if q.shape[2] > WIDEST_HEAD * heads:
        return reference.attention(q, k, v, heads)
    (y,) = _empty(q.shape)
    _attention("attention", q, heads, q, k, v, y)
    return y


@float32_only
def attention_backward(gy, q, k, v, heads: int):
    if q.shape[2] > WIDEST_HEAD * heads:
        return reference.attention_backward(gy, q, k, v, heads)
    N, L, _ = q.shape
    gq, gk, gv, stats = _empty(q.shape, q.shape, q.shape, (N, heads, L, 2))
    _attention("attention_gradient_q", q, heads, gy, q, k, v, gq, stats)
    _attention("attention_gradient_kv", q, heads, gy, q, k, v, stats, gk, gv)
    return gq, gk, gv


def timestep_features(t, C: int, freq_shift: float, cosines_first: bool, dtype: str):
    if dtype != "float32" or t.dtype != np.int64 or C < 2:
        return reference.timestep_features(t, C, freq_shift, cosines_first, dtype)
    (features,) = _empty((len(t), C))
    numbers = C, C // 2 - freq_shift, cosines_first, features.size
    each("pointwise.cu", "timestep_features", features.size, t, features, *numbers)
    return features


@float32_only
def dropout(x, p: float, seed: int, purpose: int, step: int):
    (y,) = _empty(x.shape)
    limit = np.uint32(np.ceil(p * 2.0**24))  # of the upper 24 bits, which make u
    _each_four("dropout", x.size, x, y, limit, 1 / (1 - p), *_key(seed, purpose, step), x.size)
    return y


@float32_only
def upsample_nearest(x):
    N, H, W, C = x.shape
    (y,) = _empty((N, 2 * H, 2 * W, C))
    each("pointwise.cu", "upsample_nearest", y.size, x, y, H, W, C, y.size)
    return y


@float32_only
def upsample_nearest_backward(gy):
    N, H2, W2, C = gy.shape
    (gx,) = _empty((N, H2 // 2, W2 // 2, C))
    each("pointwise.cu", "upsample_nearest_backward", gx.size, gy, gx, W2 // 2, C, gx.size)
    return gx


# --- sums of gradients ---------------------------------------------------------------------------


@float32_only
def add(a, b):
    (total,) = _empty(a.shape)
    each("pointwise.cu", "add", a.size, a, b, total, a.size)
    return total


def add_to(total, x):
    if x is None:
        return total
    if not all(a.dtype == np.float32 and a.flags.c_contiguous for a in (total, x)):
        return reference.add_to(total, x)
    each("pointwise.cu", "add", x.size, total, x, total, x.size)
    return total


def add_all(totals, xs):
    pairs = [
        (t, x) for t, x in zip(totals, xs or (None,) * len(totals), strict=True) if x is not None
    ]
    if not all(a.dtype == np.float32 and a.flags.c_contiguous for pair in pairs for a in pair):
        return reference.add_all(totals, xs)
    if pairs:
        rows = [(t.data.ptr, x.data.ptr, x.size) for t, x in pairs]
        table = cupy().asarray(np.array(rows, np.uint64))
        launch("pointwise.cu", "add_all", (32, len(pairs)), (256,), table)
    return totals


# --- diffusion and optimiser ---------------------------------------------------------------------


@float32_only
def q_sample(x0, noise, a, b):
    (x_t,) = _empty(x0.shape)
    each("pointwise.cu", "q_sample", x0.size, x0, noise, a, b, x_t, x0.size // len(x0), x0.size)
    return x_t


@float32_only
def sampler_step(x_t, output, noise, coefficients: Sequence[float], clip: bool):
    x_prev, pred_x0 = _empty(x_t.shape, x_t.shape)
    numbers = map(float, coefficients)
    arrays = x_t, output, noise if coefficients[-1] != 0 else None, x_prev, pred_x0
    each("pointwise.cu", "sampler_step", x_t.size, *arrays, *numbers, clip, x_t.size)
    return x_prev, pred_x0


@float32_only
def q_sample_normal(x0, a, b, seed: int, purpose: int, step: int):
    x_t, noise = _empty(x0.shape, x0.shape)
    sizes = x0.size // len(x0), x0.size
    key = _key(seed, purpose, step)
    _each_four("q_sample_normal", x0.size, x0, a, b, x_t, noise, *key, *sizes)
    return x_t, noise


@float32_only
def sampler_step_normal(
    x_t, output, coefficients: Sequence[float], clip: bool,
    seed: int, purpose: int, step: int, first: int = 0,
):  # fmt: skip
    x_prev, pred_x0 = _empty(x_t.shape, x_t.shape)
    numbers, key = map(float, coefficients), _key(seed, purpose, step)
    arrays = x_t, output, x_prev, pred_x0
    where = np.uint64(first), *key, x_t.size
    _each_four("sampler_step_normal", x_t.size + first % 4, *arrays, *numbers, clip, *where)
    return x_prev, pred_x0


def adam(
    param, grad, m, v, average, step: int, lr: float, beta1: float, beta2: float, eps: float,
    weight_decay: float, grad_scale: float, ema_decay: float,
):  # fmt: skip
    numbers = (
        lr / (1 - beta1**step), beta1, beta2, eps, 1 - lr * weight_decay,
        (1 - beta2**step) ** -0.5, 1.0 - ema_decay,
    )  # fmt: skip
    n = param.size
    scale = (grad_scale, 1.0) if is_array(grad_scale) else (None, float(grad_scale))
    each("pointwise.cu", "adam", n, param, grad, m, v, average, *scale, *numbers, n)


def ema(average, param, decay: float):
    each("pointwise.cu", "ema", param.size, average, param, 1.0 - decay, param.size)


@float32_only
def squared_norm(x):
    grid = min(blocks(x.size, 256), 1024)
    parts, total = cupy().empty(grid, "float64"), cupy().empty((), "float64")
    launch("pointwise.cu", "squared_norm", (grid,), (256,), x, parts, x.size)
    launch("pointwise.cu", "sum_parts", (1,), (1,), parts, total, grid)
    return total


def clip_scale(squared_norm, max_norm: float):
    (scale,) = _empty(())
    launch("pointwise.cu", "clip_scale", (1,), (1,), squared_norm, float(max_norm), scale)
    return scale


# --- random numbers ------------------------------------------------------------------------------


def _key(seed: int, purpose: int, step: int) -> tuple[np.uint32, ...]:
    return tuple(map(np.uint32, (step & 0xFFFFFFFF, step >> 32, seed, purpose)))


def _each_four(name: str, n: int, *arguments) -> None:
    """A kernel of random.cu whose threads make four numbers at a time."""
    each("random.cu", name, blocks(n, 4), *arguments)


def _stream(name: str, kind: str, n: int, seed: int, purpose: int, step: int, first: int):
    """Elements first .. first + n - 1 of a stream, by way of whole blocks of four."""
    start, end = first // 4, (first + n + 3) // 4
    out = cupy().empty(4 * (end - start), kind)
    if n:
        key = _key(seed, purpose, step)
        each("random.cu", name, end - start, out, np.uint64(start), *key, end - start)
    return out[first - 4 * start : first - 4 * start + n]


def random_bits(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    return _stream("random_bits", "uint32", n, seed, purpose, step, first)


def random_uniform(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    words = random_bits(xp, n, seed, purpose, step, first)
    return (words >> np.uint32(8)).astype("float32") * np.float32(2**-24)


def random_normal(xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0):
    return _stream("random_normal", "float32", n, seed, purpose, step, first)
