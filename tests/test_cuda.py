"""Every CUDA kernel against the reference, run by the emulator in three orders of its threads."""

import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpm import kernels
from minddpm.kernels import reference
from minddpm.kernels.emulator import Library, device_array, device_empty

CUDA = Path(kernels.__file__).parent / "cuda"
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
ORDER = st.integers(0, 2)
SIZE = st.sampled_from([1, 2, 3, 5, 7, 14])
few = settings(max_examples=15, deadline=None)


@cache
def library(file: str) -> Library:
    return Library((CUDA / file).read_text(), CUDA / file)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def launch(file, name, grid, block, *arguments, order=0):
    """Whole numbers become int32 and floats float32; what has a type of its own keeps it."""
    kinds = {int: np.int32, float: np.float32}
    arguments = tuple(kinds[type(a)](a) if type(a) in kinds else a for a in arguments)
    library(file).launch(name, grid, block, arguments, order=order)


def check(result, expected, tolerance=2e-6):
    expected = np.asarray(expected)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max(initial=0) <= tolerance * max(1.0, np.abs(expected).max())


# --- pointwise.cu --------------------------------------------------------------------------------


@few
@given(n=st.integers(1, 300), grid=st.integers(1, 3), order=ORDER, seed=st.integers(0, 99))
def test_silu_and_add(n, grid, order, seed):
    x, gy = draw(seed, n, n)
    x *= 30
    x[0] = -200  # e^200 is beyond float32
    on_device, gradient, y = device_array(x), device_array(gy), device_empty(n)
    launch("pointwise.cu", "silu", (grid,), (64,), on_device, y, n, order=order)
    check(y, reference.silu(x.astype(float)))
    gx = device_empty(n)
    launch("pointwise.cu", "silu_backward", (grid,), (64,), gradient, on_device, gx, n, order=order)
    check(gx, reference.silu_backward(gy, x.astype(float)))
    launch("pointwise.cu", "add", (grid,), (64,), gradient, on_device, gradient, n, order=order)
    check(gradient, gy + x)


@few
@given(N=st.integers(1, 3), H=SIZE, W=SIZE, C=st.integers(1, 5), order=ORDER)
def test_upsample_nearest(N, H, W, C, order):
    x, gy = draw(0, (N, H, W, C), (N, 2 * H, 2 * W, C))
    y, gx = device_empty(gy.shape), device_empty(x.shape)
    launch(
        "pointwise.cu", "upsample_nearest", (2,), (64,), device_array(x), y, H, W, C, y.size,
        order=order,
    )  # fmt: skip
    np.testing.assert_array_equal(y, reference.upsample_nearest(x))
    launch(
        "pointwise.cu", "upsample_nearest_backward", (2,), (64,), device_array(gy), gx, W, C,
        gx.size, order=order,
    )  # fmt: skip
    check(gx, reference.upsample_nearest_backward(gy))


@few
@given(N=st.integers(1, 4), P=st.integers(1, 70), order=ORDER)
def test_q_sample(N, P, order):
    x0, noise, a, b = draw(0, (N, P), (N, P), N, N)
    x_t = device_empty((N, P))
    arrays = map(device_array, (x0, noise, a, b))
    launch("pointwise.cu", "q_sample", (2,), (64,), *arrays, x_t, P, N * P, order=order)
    check(x_t, reference.q_sample(x0, noise, a, b))


@few
@given(n=st.integers(1, 200), step=st.integers(1, 3), averaged=st.booleans(), order=ORDER)
def test_adam(n, step, averaged, order):
    param, grad, m, average = draw(0, n, n, n, n)
    v = np.abs(m)
    lr, beta1, beta2, eps, weight_decay, scale, ema = 1e-2, 0.9, 0.99, 1e-6, 0.1, 0.5, 0.9
    on_device = [device_array(a) for a in (param, grad, m, v, average)]
    arguments = on_device if averaged else [*on_device[:4], np.uint64(0)]
    launch(
        "pointwise.cu", "adam", (2,), (64,), *arguments, lr / (1 - beta1**step), beta1, beta2, eps,
        1 - lr * weight_decay, scale, (1 - beta2**step) ** -0.5, 1 - ema, n, order=order,
    )  # fmt: skip
    reference.adam(
        param, grad, m, v, average if averaged else None, step, lr, beta1, beta2, eps,
        weight_decay, scale, ema,
    )  # fmt: skip
    for result, expected in zip(on_device, (param, grad, m, v, average), strict=True):
        check(result, expected, 1e-5)


@few
@given(n=st.integers(1, 200), order=ORDER)
def test_ema(n, order):
    average, param = draw(0, n, n)
    on_device = device_array(average)
    launch("pointwise.cu", "ema", (1,), (64,), on_device, device_array(param), 0.1, n, order=order)
    reference.ema(average, param, 0.9)
    check(on_device, average)


@few
@given(n=st.integers(2, 300), clip=st.booleans(), sigma=st.sampled_from([0.0, 0.3]), order=ORDER)
def test_sampler_step(n, clip, sigma, order):
    x_t, output, noise = draw(0, n, n, n)
    x_t[0] = np.nan
    coefficients = (1.2, -0.6, 0.1, 0.9, 0.2, sigma)
    results = device_empty(n), device_empty(n)
    on_device = [device_array(a) for a in (x_t, output, noise)]
    arguments = (*on_device[:2], on_device[2] if sigma else np.uint64(0), *results)
    launch(
        "pointwise.cu", "sampler_step", (2,), (64,), *arguments, *coefficients, int(clip), n,
        order=order,
    )  # fmt: skip
    expected = reference.sampler_step(x_t, output, noise if sigma else None, coefficients, clip)
    for result, wanted in zip(results, expected, strict=True):
        assert np.isnan(result[0])
        check(result[1:], wanted[1:])


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize(("n", "grid"), [(1, 1), (300, 3), (1000, 2)])
def test_squared_norm(n, grid, order):
    (x,) = draw(0, n)
    parts, total = device_empty(grid, "float64"), device_empty((), "float64")
    launch("pointwise.cu", "squared_norm", (grid,), (256,), device_array(x), parts, n, order=order)
    launch("pointwise.cu", "sum_parts", (1,), (1,), parts, total, grid)
    check(total, np.square(x.astype(float)).sum(), 1e-12)  # the reference squares in float32


# --- random.cu -----------------------------------------------------------------------------------

SEED, PURPOSE, STEP = 0xDEADBEEF, 7, (5 << 32) + 3
KEY = tuple(map(np.uint32, (STEP & 0xFFFFFFFF, STEP >> 32, SEED, PURPOSE)))


@pytest.mark.parametrize("first", [0, 3, (1 << 32) - 1])
def test_random_bits_are_the_very_same(first):
    out = device_empty(4 * 70, "uint32")
    launch("random.cu", "random_bits", (2,), (32,), out, np.uint64(first), *KEY, 70)
    expected = reference.random_bits(np, 4 * 70, SEED, PURPOSE, STEP, 4 * first)
    np.testing.assert_array_equal(out, expected)


def test_random_normal():
    out = device_empty(4 * 5000)
    launch("random.cu", "random_normal", (2,), (64,), out, np.uint64(2), *KEY, 5000)
    check(out, reference.random_normal(np, 4 * 5000, SEED, PURPOSE, STEP, 8), 3e-6)


@few
@given(N=st.integers(1, 4), P=st.integers(1, 70), order=ORDER)
def test_q_sample_normal(N, P, order):
    x0, a, b = draw(0, (N, P), N, N)
    x_t, noise = device_empty((N, P)), device_empty((N, P))
    arrays = map(device_array, (x0, a, b))
    launch(
        "random.cu", "q_sample_normal", (2,), (32,), *arrays, x_t, noise, *KEY, P, N * P,
        order=order,
    )  # fmt: skip
    expected = reference.q_sample_normal(x0, a, b, SEED, PURPOSE, STEP)
    check(x_t, expected[0], 3e-6)
    check(noise, expected[1], 3e-6)


@few
@given(n=st.integers(1, 300), p=st.sampled_from([0.0, 0.1, 0.5, 0.999]), order=ORDER)
def test_dropout(n, p, order):
    (x,) = draw(0, n)
    y, limit = device_empty(n), np.uint32(np.ceil(p * 2.0**24))
    on_device = device_array(x)
    launch(
        "random.cu", "dropout", (1,), (32,), on_device, y, limit, 1 / (1 - p), *KEY, n, order=order
    )
    check(y, reference.dropout(x, p, SEED, PURPOSE, STEP))


@few
@given(n=st.integers(1, 300), first=st.sampled_from([0, 1, 6, (1 << 34) + 3]), order=ORDER)
def test_sampler_step_normal(n, first, order):
    x_t, output = draw(0, n, n)
    coefficients = (1.2, -0.6, 0.1, 0.9, 0.2, 0.3)
    results = device_empty(n), device_empty(n)
    launch(
        "random.cu", "sampler_step_normal", (2,), (32,), device_array(x_t), device_array(output),
        *results, *coefficients, 1, np.uint64(first), *KEY, n, order=order,
    )  # fmt: skip
    expected = reference.sampler_step_normal(
        x_t, output, coefficients, True, SEED, PURPOSE, STEP, first
    )
    for result, wanted in zip(results, expected, strict=True):
        check(result, wanted, 3e-6)


# --- norm.cu -------------------------------------------------------------------------------------


@few
@given(
    N=st.integers(1, 3), P=st.sampled_from([1, 2, 7, 49, 100]), groups=st.sampled_from([1, 2, 3]),
    size=st.sampled_from([1, 3, 8, 32]), with_silu=st.booleans(), order=ORDER,
    seed=st.integers(0, 99),
)  # fmt: skip
def test_group_norm(N, P, groups, size, with_silu, order, seed):
    C = groups * size
    x, gy, weight, bias = draw(seed, (N, P, C), (N, P, C), C, C)
    name = "group_norm_silu" if with_silu else "group_norm"
    y, mean, rstd = getattr(reference, name)(x.astype(float), weight, bias, groups, 1e-2)
    on_device = [device_array(a) for a in (x, weight, bias)]
    results = device_empty(x.shape), device_empty((N, groups)), device_empty((N, groups))
    sizes = (P, C, size)
    launch(
        "norm.cu", "group_norm", (groups, N), (256,), *on_device, *results, *sizes, 1e-2,
        int(with_silu), order=order,
    )  # fmt: skip
    for result, expected in zip(results, (y, mean, rstd), strict=True):
        check(result, expected, 5e-6)

    more = (bias,) if with_silu else ()
    exact = getattr(reference, f"{name}_backward")(
        gy, x.astype(float), weight, *more, mean, rstd, groups
    )
    arrays = (device_array(gy), *on_device, *results[1:])
    sums, gx, gweight, gbias = map(device_empty, ((2, N, C), x.shape, C, C))
    columns = -(-C // 32)
    kind = (*sizes, int(with_silu))
    launch("norm.cu", "group_norm_sums", (columns, N), (32, 8), *arrays, sums, *kind, order=order)
    launch(
        "norm.cu", "group_norm_gradient", (groups, N), (256,), *arrays, sums, gx, *kind, order=order
    )
    for rows, out in zip(sums, (gbias, gweight), strict=True):
        launch("norm.cu", "sum_rows", (columns,), (32, 8), rows, out, N, C, order=order)
    for result, expected in zip((gx, gweight, gbias), exact, strict=True):
        check(result, expected, 2e-5)


# --- attention.cu --------------------------------------------------------------------------------


@few
@given(
    N=st.integers(1, 2), L=st.sampled_from([1, 4, 31, 49, 70]), heads=st.sampled_from([1, 3]),
    D=st.sampled_from([1, 8, 33, 256]), scale=st.sampled_from([1.0, 20.0]), order=ORDER,
)  # fmt: skip
def test_attention(N, L, heads, D, scale, order):
    shape = (N, L, heads * D)
    q, k, v, gy = draw(0, shape, shape, shape, shape)
    q *= np.float32(scale)  # scores beyond the range of e^x
    gy, q, k, v = (device_array(a) for a in (gy, q, k, v))
    exact = [a.astype(float) for a in (gy, q, k, v)]
    y, gq, gk, gv = (device_empty(shape) for _ in range(4))
    stats = device_empty((N, heads, L, 2))
    how = dict(grid=(-(-L // 7), heads, N), block=(32, 7), shared=4 * (32 * (D + 1) + 14 * D))

    def run(name, *arrays):
        arguments = (*arrays, np.int32(L), np.int32(D))
        library("attention.cu").launch(name, arguments=arguments, order=order, **how)

    run("attention", q, k, v, y)
    check(y, reference.attention(*exact[1:], heads), 1e-5)
    run("attention_gradient_q", gy, q, k, v, gq, stats)
    run("attention_gradient_kv", gy, q, k, v, stats, gk, gv)
    for result, wanted in zip(
        (gq, gk, gv), reference.attention_backward(*exact, heads), strict=True
    ):
        check(result, wanted, 1e-4)


# --- convolution, rung by rung -------------------------------------------------------------------

# file: (block, rows and columns of a block's results)
RUNGS = {
    "conv1_naive.cu": ((32, 8), (32, 8)),
    "conv2_coalesced.cu": ((32, 8), (8, 32)),
    "conv3_shared.cu": ((16, 16), (16, 16)),
    "conv4_registers.cu": ((256,), (64, 64)),
}


def convolution(file, name, rows, columns, *arguments, order):
    block, tile = RUNGS[file]
    grid = (-(-rows // tile[0]), -(-columns // tile[1]))
    launch(file, name, grid, block, *arguments, order=order)


@pytest.mark.parametrize("file", RUNGS)
@few
@given(
    N=st.integers(1, 2), H=SIZE, W=SIZE, C=st.sampled_from([1, 3, 8, 17]),
    K=st.sampled_from([1, 5, 8, 66]), KH=st.sampled_from([1, 3]), KW=st.sampled_from([1, 2, 3]),
    stride=st.sampled_from([1, 2, 3]), pad=st.tuples(*[st.integers(0, 2)] * 4),
    with_bias=st.booleans(), order=ORDER,
)  # fmt: skip
def test_conv2d(file, N, H, W, C, K, KH, KW, stride, pad, with_bias, order):
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < KH or W + sum(padding[1]) < KW:
        return
    x, w, b = draw(0, (N, H, W, C), (KH, KW, C, K), K)
    y = reference.conv2d(x.astype(float), w, b if with_bias else None, stride, padding)
    OH, OW = y.shape[1:3]
    (gy,) = draw(1, y.shape)
    sizes = (N, H, W, C, OH, OW, K, KH, KW, stride, pad[0], pad[2])
    pixels, window = N * OH * OW, KH * KW * C
    on_device = device_array(x), device_array(w)
    bias = device_array(b) if with_bias else np.uint64(0)
    result, gx, gw, gradient = (*map(device_empty, (y.shape, x.shape, w.shape)), device_array(gy))
    convolution(file, "conv2d", pixels, K, *on_device, bias, result, *sizes, order=order)
    check(result, y, 5e-6)
    gradients = reference.conv2d_backward(gy, x.astype(float), w, stride, padding)
    convolution(
        file, "conv2d_gradient_x", N * H * W, C, gradient, on_device[1], gx, *sizes, order=order
    )
    check(gx, gradients[0], 5e-6)
    convolution(
        file, "conv2d_gradient_w", window, K, gradient, on_device[0], gw, *sizes, order=order
    )
    check(gw, gradients[1], 5e-6)


def tiles_of(N, OH, OW):
    return N * -(-OH // 4) * -(-OW // 4), -(-OH // 4), -(-OW // 4)


def winograd(x, w, bias, y_shape, top, left, turned, order):
    """conv5_winograd.cu: to points, products, back."""
    N, H, W, C = x.shape
    _, OH, OW, K = y_shape
    tiles = tiles_of(N, OH, OW)
    u, v, m, y = map(device_empty, ((36, C, K), (36, tiles[0], C), (36, tiles[0], K), y_shape))
    file, block = "conv5_winograd.cu", (32, 8)
    lines, columns = w.shape[2:]
    grid = (-(-columns // 32), -(-lines // 8))
    launch(file, "weights_to_points", grid, block, w, u, lines, columns, int(turned), order=order)
    grid = (-(-tiles[0] // 8), -(-C // 32))
    launch(file, "to_points", grid, block, x, v, H, W, C, *tiles, top, left, order=order)
    grid = (-(-tiles[0] // 64), -(-K // 64), 36)
    launch(file, "at_points", grid, (256,), v, u, m, tiles[0], C, K, order=order)
    grid = (-(-tiles[0] // 8), -(-K // 32))
    launch(file, "from_points", grid, block, m, bias, y, OH, OW, K, *tiles, order=order)
    return y, v


@settings(max_examples=8, deadline=None)
@given(
    N=st.integers(1, 2), H=SIZE, W=SIZE, C=st.sampled_from([1, 8, 33]),
    K=st.sampled_from([1, 5, 66]), pad=st.tuples(*[st.integers(0, 2)] * 4), order=ORDER,
)  # fmt: skip
def test_winograd(N, H, W, C, K, pad, order):
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < 3 or W + sum(padding[1]) < 3:
        return
    x, w, b = draw(0, (N, H, W, C), (3, 3, C, K), K)
    expected = reference.conv2d(x.astype(float), w, b, 1, padding)
    (gy,) = draw(1, expected.shape)
    gradients = reference.conv2d_backward(gy, x.astype(float), w, 1, padding)
    on_device = [device_array(a) for a in (x, w, b, gy)]
    y, v = winograd(*on_device[:3], expected.shape, pad[0], pad[2], False, order)
    check(y, expected, 3e-5)  # F(4x4), as on the CPU

    # x(h) meets gy(h + top - kh): a convolution of gy, padded by 2 - top, with the window turned
    gx, _ = winograd(
        on_device[3], on_device[1], np.uint64(0), x.shape, 2 - pad[0], 2 - pad[2], True, order
    )
    check(gx, gradients[0], 3e-5)

    OH, OW = expected.shape[1:3]
    tiles = tiles_of(N, OH, OW)
    d, du, gw = map(device_empty, ((36, tiles[0], K), (36, C, K), w.shape))
    file, block = "conv5_winograd.cu", (32, 8)
    grid = (-(-tiles[0] // 8), -(-K // 32))
    launch(file, "gradient_to_points", grid, block, on_device[3], d, OH, OW, K, *tiles, order=order)
    grid = (-(-C // 64), -(-K // 64), 36)
    launch(file, "weights_at_points", grid, (256,), v, d, du, tiles[0], C, K, order=order)
    grid = (-(-K // 32), -(-C // 8))
    launch(file, "weights_from_points", grid, block, du, gw, C, K, order=order)
    check(gw, gradients[1], 3e-5)
