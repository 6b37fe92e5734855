"""Every hot operation once, in plain array code that runs on NumPy and on CuPy.

This file is the specification: every other kernel set has the same names and signatures and is
tested against it. It is written to be read, but not to be foolish: no loop over pixels or images.

Conventions: images [N, H, W, C]; convolution weights [KH, KW, C_in, C_out], of a transposed one
[KH, KW, C_out, C_in]; linear weights [C_in, C_out]; gy is the gradient of the loss with respect to
y, so gx has the shape of x. Each function keeps the floating-point type that it is given (float32
in use, float64 under gradcheck). Arrays may be views of any strides, and are never written to
unless the function says "in place": one gy may be the gradient of several results.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from types import ModuleType

import numpy as np

from minddpm.backend import Array, array_module
from minddpm.kernels.compose import (
    SAME,
    Padding,
    Parts,
    added,
    all_added,
    compose_conv_transpose2d_backward,
    compose_denoise,
    compose_linears,
    compose_linears_backward,
    compose_norm_silu_conv2d,
    compose_norm_silu_conv2d_backward,
    cut,
    joined,
    normalised,
    spread,
    transposed_shape,
)

THIS = sys.modules[__name__]  # the kernel set that operations made of others are made of here


def constant_weights(kept: dict | None = None) -> AbstractContextManager[dict]:
    """Within the block no weight changes: a kernel set may keep what it makes of them.

    kept: what an earlier block gave, if no weight has changed since.
    """
    return nullcontext({} if kept is None else kept)


# --- convolution ---------------------------------------------------------------------------------


def _patches(x: Array, KH: int, KW: int, stride: int, padding: Padding) -> Array:
    """The window under each output pixel, [N, OH, OW, KH, KW, C]: a view, nothing copied yet."""
    xp = array_module(x)
    x = xp.pad(x, ((0, 0), *padding, (0, 0)))
    windows = xp.lib.stride_tricks.sliding_window_view(x, (KH, KW), axis=(1, 2))
    return windows[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3)


def conv2d(x: Array, w: Array, b: Array | None, stride: int, padding: Padding) -> Array:
    """y[n,i,j,:] = sum over kh, kw of x[n, i*stride+kh, j*stride+kw, :] @ w[kh, kw] + b.

    x [N, H, W, C_in] (zero-padded first), w [KH, KW, C_in, C_out], b [C_out] or None
    -> y [N, OH, OW, C_out] with OH = (H + top + bottom - KH) // stride + 1.
    """
    KH, KW, C_in, C_out = w.shape
    patches = _patches(x, KH, KW, stride, padding)
    N, OH, OW = patches.shape[:3]
    y = patches.reshape(N * OH * OW, KH * KW * C_in) @ w.reshape(KH * KW * C_in, C_out)
    if b is not None:
        y += b
    return y.reshape(N, OH, OW, C_out)


def conv2d_backward(
    gy: Array, x: Array, w: Array, stride: int, padding: Padding, need_gx: bool = True,
    plus: Array | None = None,
) -> tuple[Array | None, Array, Array]:  # fmt: skip
    """gy [N, OH, OW, C_out] -> gx [N, H, W, C_in] (None unless need_gx), gw, gb [C_out].

    plus: what else the gradient of x is made of, to be added to gx; so in all that follows.

    y is one product Y = P W of the patches, so gW = P^T gY and gb = 1^T gY.
    """
    KH, KW, C_in, C_out = w.shape
    N, OH, OW = gy.shape[:3]
    gy2 = gy.reshape(N * OH * OW, C_out)
    patches = _patches(x, KH, KW, stride, padding).reshape(N * OH * OW, KH * KW * C_in)
    gw = (patches.T @ gy2).reshape(w.shape)
    gb = gy2.sum(axis=0)
    if not need_gx:
        return None, gw, gb
    gx = _conv2d_backward_data(gy, x.shape, w, stride, padding)
    return added(THIS, gx, plus), gw, gb


def _conv2d_backward_data(
    gy: Array, x_shape: tuple[int, ...], w: Array, stride: int, padding: Padding
) -> Array:
    """gx[n,a,b,:] = sum over kh, kw of gy[n,i,j,:] @ w[kh,kw]^T with a = i*stride+kh, b = j*stride+kw.

    With gy spread out by the stride (zeros between), i*stride = a - kh: a convolution again, by the
    kernel turned by 180 degrees and transposed. It covers the padded picture; the padding is cut off.
    """  # noqa: E501
    xp = array_module(gy)
    KH, KW, _, C_out = w.shape
    N, OH, OW = gy.shape[:3]
    (top, bottom), (left, right) = padding
    H, W = x_shape[1:3]
    spread = xp.zeros((N, H + top + bottom - KH + 1, W + left + right - KW + 1, C_out), gy.dtype)
    spread[:, : stride * OH : stride, : stride * OW : stride] = gy
    turned = xp.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))
    gx = conv2d(spread, turned, None, 1, ((KH - 1, KH - 1), (KW - 1, KW - 1)))
    return xp.ascontiguousarray(gx[:, top : top + H, left : left + W])


def conv_transpose2d(x: Array, w: Array, b: Array, stride: int, padding: Padding) -> Array:
    """y[n,i*stride+kh,j*stride+kw,:] sums up x[n,i,j,:] @ w[kh,kw]^T over all i, j, kh, kw; + b.

    The transpose of conv2d with the same w: each pixel of x leaves its window in y, whose padding
    is cut off again (Dumoulin and Visin 2016, chapter 4; the generator of Radford et al. 2016).
    x [N, H, W, C_in], w [KH, KW, C_out, C_in], as conv2d from C_out to C_in channels has it, b
    [C_out] -> y [N, OH, OW, C_out] with OH = (H - 1) * stride - top - bottom + KH.
    """
    shape = transposed_shape(x.shape, w.shape, stride, padding)
    y = _conv2d_backward_data(x, shape, w, stride, padding)
    y += b
    return y


def conv_transpose2d_backward(
    gy: Array, x: Array, w: Array, stride: int, padding: Padding, need_gx: bool = True,
    plus: Array | None = None,
) -> tuple[Array | None, Array, Array]:  # fmt: skip
    """gx (None unless need_gx), gw, gb [C_out].

    Where conv2d is y = A x, this is y = A^T x, so gx = A gy: conv2d of gy. <gy, A^T x> = <A gy, x>,
    so gw is that of conv2d, with gy as its picture and x as the gradient of its result.
    """
    return compose_conv_transpose2d_backward(THIS, gy, x, w, stride, padding, need_gx, plus)


# --- linear --------------------------------------------------------------------------------------


def linear(xs: Parts, w: Array, b: Array | None, extra: Array | None = None) -> Array:
    """y = x w + b + extra over the last axis: x [..., C_in], w [C_in, C_out], b [C_out] or None.

    x may come in parts that stand side by side along the last axis; mostly there is one.
    """
    x = joined(xs)
    y = (x.reshape(-1, x.shape[-1]) @ w).reshape(*x.shape[:-1], w.shape[1])
    if b is not None:
        y += b
    if extra is not None:
        y += extra
    return y


def linear_backward(
    gy: Array, xs: Parts, w: Array, plus: Sequence[Array | None] = ()
) -> tuple[tuple[Array, ...], Array, Array]:
    """gx = gy w^T, cut into its parts; gw = x^T gy; gb = sum of gy over all but the last axis."""
    x = joined(xs)
    x2, gy2 = x.reshape(-1, x.shape[-1]), gy.reshape(-1, gy.shape[-1])
    gxs = cut((gy2 @ w.T).reshape(x.shape), xs)
    return all_added(THIS, gxs, plus), x2.T @ gy2, gy2.sum(axis=0)


def linears(x: Array, ws: Sequence[Array], bs: Sequence[Array]) -> tuple[Array, ...]:
    """Several linear layers of one x, such as the three projections of attention."""
    return compose_linears(THIS, x, ws, bs)


def linears_backward(
    gys: Sequence[Array], x: Array, ws: Sequence[Array], plus: Array | None = None
) -> tuple[Array, tuple[Array, ...], tuple[Array, ...]]:
    """gx, the sum of what all of them say; gws; gbs."""
    return compose_linears_backward(THIS, gys, x, ws, plus)


# --- normalisation and activation ----------------------------------------------------------------


def silu(x: Array) -> Array:
    """y = x s(x) with s(x) = 1 / (1 + e^-x)."""
    return x * _sigmoid(x)


def silu_backward(gy: Array, x: Array) -> Array:
    """dy/dx = s + x s (1 - s), since s' = s (1 - s)."""
    s = _sigmoid(x)
    slope = 1 - s
    slope *= x
    slope += 1
    slope *= s
    slope *= gy
    return slope


def _sigmoid(x: Array) -> Array:
    # s(x) = (1 + tanh(x/2)) / 2 is the same function without e^-x, which overflows at x = -89.
    s = array_module(x).tanh(x * 0.5)
    s += 1
    s *= 0.5
    return s


def _group_mean(x: Array, groups: int) -> Array:
    """The mean over the pixels and channels of each group: [N, ..., C] -> [N, G]."""
    # Pixels first: that adds whole rows of C neighbouring values, several times as fast as
    # hopping through the C / G channels of one group.
    channels = x.reshape(x.shape[0], -1, x.shape[-1]).mean(axis=1)
    return channels.reshape(x.shape[0], groups, -1).mean(axis=2)


def group_norm(
    x: Array, weight: Array, bias: Array, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """Group normalisation (Wu and He 2018): each group of channels of each image to mean 0, std 1.

    x [N, ..., C], weight and bias [C]; C divisible by groups
    -> y = (x - mean) rstd weight + bias, and mean and rstd = 1 / sqrt(var + eps), both [N, G].
    """
    xp = array_module(x)
    mean = _group_mean(x, groups)
    y = x - spread(mean, x)
    # The variance of the centred values: E[x^2] - E[x]^2 would cancel where |mean| >> std.
    rstd = 1 / xp.sqrt(_group_mean(xp.square(y), groups) + eps)
    y *= spread(rstd, x) * weight
    y += bias
    return y, mean, rstd


def group_norm_backward(
    gy: Array, x: Array, weight: Array, mean: Array, rstd: Array, groups: int,
    plus: Array | None = None,
) -> tuple[Array, Array, Array]:  # fmt: skip
    """Through y = n weight + bias, n = (x - mean) rstd.

    gn = gy weight;  gweight = sum gy n;  gbias = sum gy
    mean and rstd depend on every x of the group, which gives the two averages that are taken off:
    gx = rstd (gn - avg(gn) - n avg(gn n))
    """
    C = x.shape[-1]
    n = normalised(x, mean, rstd)
    gy_n = gy * n
    gw, gb = gy_n.reshape(-1, C).sum(axis=0), gy.reshape(-1, C).sum(axis=0)
    gx = gy * weight
    gx -= spread(_group_mean(gx, groups), x)
    gy_n *= weight
    n *= spread(_group_mean(gy_n, groups), x)
    gx -= n
    gx *= spread(rstd, x)
    return added(THIS, gx, plus), gw, gb


def group_norm_silu(
    x: Array, weight: Array, bias: Array, groups: int, eps: float
) -> tuple[Array, Array, Array]:
    """silu(group_norm(x)), the pair in front of every convolution of the UNet, as one operation."""
    y, mean, rstd = group_norm(x, weight, bias, groups, eps)
    return silu(y), mean, rstd


def group_norm_silu_backward(
    gy: Array, x: Array, weight: Array, bias: Array, mean: Array, rstd: Array, groups: int
) -> tuple[Array, Array, Array]:
    """group_norm_backward after silu_backward; the value between the two is made again from x."""
    gy = silu_backward(gy, normalised(x, mean, rstd) * weight + bias)
    return group_norm_backward(gy, x, weight, mean, rstd, groups)


# --- attention -----------------------------------------------------------------------------------


def _heads(x: Array, heads: int) -> Array:
    """[N, L, heads*D] -> [N, heads, L, D]"""
    N, L, C = x.shape
    return x.reshape(N, L, heads, C // heads).transpose(0, 2, 1, 3)


def _merge(x: Array) -> Array:
    """[N, heads, L, D] -> [N, L, heads*D]"""
    N, heads, L, D = x.shape
    return x.transpose(0, 2, 1, 3).reshape(N, L, heads * D)


def _attention_weights(q: Array, k: Array) -> Array:
    """p = softmax(q k^T / sqrt(D)) over the last axis, [N, heads, L, L]."""
    xp = array_module(q)
    s = q @ k.swapaxes(-1, -2)
    s *= q.shape[-1] ** -0.5
    s -= s.max(axis=-1, keepdims=True)  # softmax(s + c) = softmax(s): the largest exponent is now 0
    p = xp.exp(s)
    p /= p.sum(axis=-1, keepdims=True)
    return p


def attention(q: Array, k: Array, v: Array, heads: int) -> Array:
    """y = softmax(q k^T / sqrt(D)) v for each head (Vaswani et al. 2017); all [N, L, heads*D]."""
    q, k, v = (_heads(a, heads) for a in (q, k, v))
    return _merge(_attention_weights(q, k) @ v)


def attention_backward(
    gy: Array, q: Array, k: Array, v: Array, heads: int
) -> tuple[Array, Array, Array]:
    """With s = q k^T / sqrt(D), p = softmax(s), y = p v (p is made again rather than kept):

    gv = p^T gy;  gp = gy v^T;  gs = p (gp - sum_j gp_j p_j) as dp_i/ds_j = p_i (delta_ij - p_j);
    gq = gs k / sqrt(D);  gk = gs^T q / sqrt(D)
    """
    gy, q, k, v = (_heads(a, heads) for a in (gy, q, k, v))
    p = _attention_weights(q, k)
    gv = p.swapaxes(-1, -2) @ gy
    gp = gy @ v.swapaxes(-1, -2)
    gs = p * (gp - (gp * p).sum(axis=-1, keepdims=True))
    gs *= q.shape[-1] ** -0.5
    return _merge(gs @ k), _merge(gs.swapaxes(-1, -2) @ q), _merge(gv)


# --- time embedding ------------------------------------------------------------------------------


def timestep_features(
    t: Array, C: int, freq_shift: float, cosines_first: bool, dtype: str
) -> Array:
    """Sines and cosines of t at geometrically falling frequencies: int [N] -> [N, C].

    angle_i = t * 10000^(-i / (half - freq_shift)), i = 0..half-1 (Vaswani et al. 2017, 3.5);
    half = C // 2, and an odd C has a zero at the end.
    """
    xp, half = array_module(t), C // 2
    exponent = xp.arange(half, dtype="float64") / (half - freq_shift)
    angle = t.astype("float64")[:, None] * xp.exp(-math.log(10000) * exponent)
    parts = [xp.cos(angle), xp.sin(angle)] if cosines_first else [xp.sin(angle), xp.cos(angle)]
    if C % 2:
        parts.append(xp.zeros((len(t), 1)))
    return xp.concatenate(parts, axis=1).astype(dtype)


# --- dropout -------------------------------------------------------------------------------------


def dropout(x: Array, p: float, seed: int, purpose: int, step: int) -> Array:
    """Each value zeroed with probability p, the others times 1 / (1 - p), so that E[y] = x.

    Element i stays where the uniform number i of the stream (seed, purpose, step) is at least p.
    The backward is the same operation on gy: the numbers are made again, and no mask is kept.
    """
    u = random_uniform(array_module(x), x.size, seed, purpose, step).reshape(x.shape)
    # Scaled here rather than at sampling time, so that eval() has nothing to do.
    return x * ((u >= p).astype(x.dtype) * (1 / (1 - p)))


# --- upsampling ----------------------------------------------------------------------------------


def upsample_nearest(x: Array) -> Array:
    """Every pixel becomes 2 x 2 equal ones: [N, H, W, C] -> [N, 2H, 2W, C]."""
    xp = array_module(x)
    N, H, W, C = x.shape
    y = xp.broadcast_to(x[:, :, None, :, None], (N, H, 2, W, 2, C))
    return y.reshape(N, 2 * H, 2 * W, C)


def upsample_nearest_backward(gy: Array) -> Array:
    """Each pixel of x was copied four times, so gx is the sum of its four gy."""
    N, H2, W2, C = gy.shape
    return gy.reshape(N, H2 // 2, 2, W2 // 2, 2, C).sum(axis=(2, 4))


# --- what stands around the UNet's 3x3 convolutions, as one operation -----------------------------


def upsample_conv2d(x: Array, w: Array, b: Array) -> Array:
    """conv2d of the picture of twice the size: x [N, H, W, C], w [3, 3, C, K] -> [N, 2H, 2W, K]."""
    return conv2d(upsample_nearest(x), w, b, 1, SAME)


def upsample_conv2d_backward(gy: Array, x: Array, w: Array) -> tuple[Array, Array, Array]:
    """gx, gw, gb: conv2d_backward, then upsample_nearest_backward."""
    gx, gw, gb = conv2d_backward(gy, upsample_nearest(x), w, 1, SAME)
    return upsample_nearest_backward(gx), gw, gb


def norm_silu_conv2d(
    xs: Parts, norm_weight: Array, norm_bias: Array, groups: int, eps: float,
    w: Array, b: Array, shift: Array | None, extra: Array | None,
) -> tuple[Array, tuple[Array, ...]]:  # fmt: skip
    """y = conv2d(silu(group_norm(x))) + b + shift + extra: half a residual block.

    xs: parts [N, H, W, C_p] of x; w [3, 3, C, K]; b [K]; shift [N, K] or None, for each image (the
    time embedding); extra [N, H, W, K] or None (the residual path) -> y, and what the backward of
    the same kernel set wants kept: mean, rstd [N, G], and more if it likes.
    """
    return compose_norm_silu_conv2d(
        THIS, xs, norm_weight, norm_bias, groups, eps, w, b, shift, extra
    )


def norm_silu_conv2d_backward(
    gy: Array, xs: Parts, norm_weight: Array, norm_bias: Array, kept: tuple[Array, ...],
    groups: int, w: Array, plus: Sequence[Array | None] = (),
) -> tuple[tuple[Array, ...], Array, Array, Array, Array, Array]:  # fmt: skip
    """gxs, gnorm_weight, gnorm_bias, gw, gb [K], gshift [N, K]; gextra is gy itself."""
    return compose_norm_silu_conv2d_backward(
        THIS, gy, xs, norm_weight, norm_bias, kept, groups, w, plus
    )


# --- sums of gradients ---------------------------------------------------------------------------


def add(a: Array, b: Array) -> Array:
    """a + b, of one shape and type: a new array."""
    return array_module(a).asarray(a + b)  # the sum of arrays without axes is none


def add_to(total: Array, x: Array) -> None:
    """total += x, in place."""
    array_module(total).add(total, x, out=total)


def add_all(totals: Sequence[Array], xs: Sequence[Array]) -> None:
    """add_to of each pair; no array is met twice."""
    for total, x in zip(totals, xs, strict=True):
        add_to(total, x)


# --- diffusion -----------------------------------------------------------------------------------


def q_sample(x0: Array, noise: Array, a: Array, b: Array) -> Array:
    """x_t = a x0 + b noise with one a and b per image: x0, noise [N, ...], a, b [N]."""
    ones = (1,) * (x0.ndim - 1)
    return a.reshape(-1, *ones) * x0 + b.reshape(-1, *ones) * noise


def sampler_step(
    x_t: Array, output: Array, noise: Array | None, coefficients: Sequence[float], clip: bool
) -> tuple[Array, Array]:
    """One reverse step of any first-order sampler: (x_{t-1}, pred_x0), both [N, H, W, C].

    pred_x0 = px x_t + po output, clipped to [-1, 1] if clip
    x_{t-1} = k0 pred_x0 + kx x_t + ko output + sigma noise
    coefficients = (px, po, k0, kx, ko, sigma); noise may be None where sigma = 0.
    """
    px, po, k0, kx, ko, sigma = coefficients
    pred_x0 = px * x_t + po * output
    if clip:
        pred_x0 = pred_x0.clip(-1, 1)
    x_prev = k0 * pred_x0 + kx * x_t + ko * output
    if sigma != 0:
        x_prev += sigma * noise
    return x_prev, pred_x0


def q_sample_normal(
    x0: Array, a: Array, b: Array, seed: int, purpose: int, step: int
) -> tuple[Array, Array]:
    """(x_t, noise) of q_sample with random_normal's noise, drawn in the same pass."""
    noise = random_normal(array_module(x0), x0.size, seed, purpose, step).reshape(x0.shape)
    return q_sample(x0, noise, a, b), noise


def sampler_step_normal(
    x_t: Array, output: Array, coefficients: Sequence[float], clip: bool,
    seed: int, purpose: int, step: int, first: int = 0,
) -> tuple[Array, Array]:  # fmt: skip
    """sampler_step with random_normal's noise, drawn in the same pass."""
    noise = random_normal(array_module(x_t), x_t.size, seed, purpose, step, first)
    return sampler_step(x_t, output, noise.reshape(x_t.shape), coefficients, clip)


def denoise(
    run: Callable[[Array, Array], Array], x: Array, timesteps: np.ndarray,
    coefficients: np.ndarray, clip: bool, stream: tuple[int, int, int],
    noise: Callable[[int], Array] | None = None, replay: bool = False,
) -> Iterator[tuple[Array, Array]]:  # fmt: skip
    """Every step of a sampler, from x_T: (x, pred_x0) after each, new arrays [N, H, W, C].

    run(x, t): the model's output for t, int64 [N]. timesteps int [S] and coefficients [S, 6]: what
    step i tells the model and what sampler_step then takes. noise(i): its noise; None: that of
    random_normal, stream = (seed, purpose, first), step i.
    replay: run launches the same kernels on the same arrays whatever x and t hold, and reads
    nothing on the host, so that a kernel set may record it once and repeat what it recorded.
    """
    return compose_denoise(THIS, run, x, timesteps, coefficients, clip, stream, noise)


# --- optimiser, on one flat buffer of all parameters, in place ------------------------------------


def adam(
    param: Array, grad: Array, m: Array, v: Array, average: Array | None, step: int, lr: float,
    beta1: float, beta2: float, eps: float, weight_decay: float, grad_scale: float | Array,
    ema_decay: float,
) -> None:  # fmt: skip
    """One step of Adam (Kingma and Ba 2015, algorithm 1) with decoupled decay (AdamW, 2019).

    All arrays [P]; param, m and v are changed in place, and so is average (unless it is None), the
    moving average that then takes in the new param. step counts from 1; grad_scale multiplies the
    gradient first. Where it is not finite (clip_scale), nothing is changed.
    m = beta1 m + (1 - beta1) g;  v = beta2 v + (1 - beta2) g^2
    param -= lr ( (m / (1 - beta1^step)) / (sqrt(v / (1 - beta2^step)) + eps) + weight_decay param )
    """
    xp = array_module(param)
    if not xp.isfinite(xp.asarray(grad_scale)):
        return
    g = grad * grad_scale
    m *= beta1
    m += (1 - beta1) * g
    v *= beta2
    g *= g
    v += (1 - beta2) * g
    update = xp.sqrt(v)
    update *= (1 - beta2**step) ** -0.5
    update += eps
    xp.divide(m, update, out=update)
    update *= lr / (1 - beta1**step)
    if weight_decay:
        param *= 1 - lr * weight_decay
    param -= update
    if average is not None:
        ema(average, param, ema_decay)


def ema(average: Array, param: Array, decay: float) -> None:
    """average = decay average + (1 - decay) param, in place, both [P]."""
    average += (1 - decay) * (param - average)


def squared_norm(x: Array) -> Array:
    """sum x^2 of a flat array, as a 0-d float64 array (it stays on the device)."""
    xp = array_module(x)
    return xp.square(x).sum(dtype=xp.float64)


def clip_scale(squared_norm: Array, max_norm: float) -> Array:
    """The factor that brings a gradient of length sqrt(squared_norm) down to max_norm.

    float32 without axes (it stays on the device): 1 if the gradient is shorter, nan if its length
    is not a finite number.
    """
    xp = array_module(squared_norm)
    norm = xp.sqrt(squared_norm)
    scale = xp.where(xp.isfinite(norm), max_norm / xp.maximum(norm, max_norm), xp.nan)
    return xp.asarray(scale, dtype="float32")


# --- Philox4x32-10 -------------------------------------------------------------------------------

PHILOX_M0, PHILOX_M1 = 0xD2511F53, 0xCD9E8D57  # multipliers, and the Weyl constants added to the
PHILOX_W0, PHILOX_W1 = 0x9E3779B9, 0xBB67AE85  # key each round: the golden ratio and sqrt(3) - 1


def philox4x32(counter: Array, key: tuple[int, int]) -> Array:
    """Ten rounds of Philox4x32 (Salmon et al. 2011) -> random uint32 [n, 4].

    counter uint32 [n, 4], key two integers in 0 .. 2^32 - 1. One round:
    (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))
    """
    xp = array_module(counter)
    low = xp.uint64(0xFFFFFFFF)
    shift = xp.uint64(32)
    c0, c1, c2, c3 = counter.T.astype(xp.uint64)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * xp.uint64(PHILOX_M0), c2 * xp.uint64(PHILOX_M1)
        c0, c1, c2, c3 = (
            (p1 >> shift) ^ c1 ^ xp.uint64(k0),
            p1 & low,
            (p0 >> shift) ^ c3 ^ xp.uint64(k1),
            p0 & low,
        )
        k0, k1 = (k0 + PHILOX_W0) & 0xFFFFFFFF, (k1 + PHILOX_W1) & 0xFFFFFFFF
    return xp.stack([c0, c1, c2, c3], axis=1).astype(xp.uint32)


def random_bits(
    xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0
) -> Array:
    """Elements first .. first + n - 1 of the stream (seed, purpose, step), uint32 [n].

    Element i is word i % 4 of the block with counter (i // 4, step) and key (seed, purpose).
    """
    block = xp.arange(first // 4, (first + n + 3) // 4, dtype=xp.uint64)
    counter = xp.empty((len(block), 4), dtype=xp.uint32)
    counter[:, 0] = (block & xp.uint64(0xFFFFFFFF)).astype(xp.uint32)
    counter[:, 1] = (block >> xp.uint64(32)).astype(xp.uint32)
    counter[:, 2] = step & 0xFFFFFFFF
    counter[:, 3] = step >> 32
    return philox4x32(counter, (seed, purpose)).reshape(-1)[first % 4 : first % 4 + n]


def random_uniform(
    xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0
) -> Array:
    """float32 [n] in [0, 1): the upper 24 bits, which float32 holds exactly, times 2^-24."""
    bits = random_bits(xp, n, seed, purpose, step, first)
    return (bits >> xp.uint32(8)).astype(xp.float32) * xp.float32(2**-24)


def random_normal(
    xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0
) -> Array:
    """Standard normals, float32 [n], by Box-Muller: words (2i, 2i + 1) make elements (2i, 2i + 1).

    r = sqrt(-2 ln u1);  z = r cos(2 pi u2), r sin(2 pi u2);  u1 in (0, 1], u2 in [0, 1)
    Both u are multiples of 2^-24, exact in float32, so that every backend starts from equal
    numbers and the results differ by the rounding of log, sin and cos alone. |z| <= 5.77.
    """
    odd = first % 2  # begin and end with whole pairs
    whole = (n + odd) + (n + odd) % 2
    bits = random_bits(xp, whole, seed, purpose, step, first - odd) >> xp.uint32(8)
    u = bits.astype(xp.float64).reshape(-1, 2) * 2.0**-24
    r = xp.sqrt(-2 * xp.log(u[:, 0] + 2.0**-24))
    angle = 2 * xp.pi * u[:, 1]
    z = xp.stack([r * xp.cos(angle), r * xp.sin(angle)], axis=1)
    return z.reshape(-1)[odd : odd + n].astype(xp.float32)
