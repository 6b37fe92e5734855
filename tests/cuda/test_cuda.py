"""Every CUDA kernel against the reference, run by the emulator in three orders of its threads."""

import shutil
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpm.gpucheck.cases import four_calls, rounded
from minddpm.kernels import cuda, reference
from minddpm.kernels.cuda import convolution, winograd
from minddpm.kernels.emulator import cupy_on_cpu
from minddpm.kernels.emulator.cupy_on_cpu.cuda import emulation

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
ORDERS = (0, 1, 2)
SIZE = st.sampled_from([1, 2, 3, 5, 7, 14])
few = settings(max_examples=12, deadline=None)


@pytest.fixture(autouse=True, scope="module")
def _emulated():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("cupy", "cupy.cuda"):
            patch.setitem(sys.modules, name, None)  # so that they are put back afterwards
        cupy_on_cpu.install()
        yield


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def mapped(function, x, kind):
    """x with the function applied to every array of this kind in it."""
    if isinstance(x, (tuple, list)):
        return tuple(mapped(function, part, kind) for part in x)
    return function(x) if isinstance(x, kind) else x


def flat(x):
    """The arrays in nested results."""
    if isinstance(x, (tuple, list)):
        return [array for part in x for array in flat(part)]
    return [] if x is None else [x]


def check(result, expected, tolerance):
    expected = np.asarray(expected)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max(initial=0) <= tolerance * max(1.0, np.abs(expected).max())


def in_every_order(function, *arguments):
    """The results of a function of device arrays, which must not depend on the order of threads."""
    results = []
    for order in ORDERS:
        on_device = mapped(cupy_on_cpu.asarray, arguments, np.ndarray)
        emulation.order = order
        try:
            got = function(*on_device)
        finally:
            emulation.order = 0
        results.append([cupy_on_cpu.asnumpy(a) for a in flat(got)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    return results[0]


def same(name, *arguments, tolerance=2e-6, double=True):
    """The kernel's results, compared with the reference's in float64 (or float32)."""
    kernel, specification = getattr(cuda, name), getattr(reference, name)
    exact = mapped(lambda a: a.astype(float), arguments, np.ndarray) if double else arguments
    expected = specification(*exact)
    results = in_every_order(kernel, *arguments)
    for result, wanted in zip(results, flat(expected), strict=True):
        check(result, wanted, tolerance)
    return expected


def test_it_has_every_function_of_the_reference():
    functions = {
        name
        for name, value in vars(reference).items()
        if callable(value) and name in reference.__all__
    }
    assert functions <= set(cuda.__all__)
    own = {name for name in cuda.__all__ if getattr(cuda, name) is not getattr(reference, name)}
    assert functions - own == {"constant_weights", "philox4x32"}


def test_other_types_go_to_the_reference():
    x = np.linspace(-3, 3, 7)
    y = cuda.silu(cupy_on_cpu.asarray(x))
    assert y.dtype == np.float64
    np.testing.assert_array_equal(y.get(), reference.silu(x))


# --- pointwise.cu --------------------------------------------------------------------------------


@few
@given(n=st.integers(1, 700), seed=st.integers(0, 99))
def test_silu_and_add(n, seed):
    x, gy = draw(seed, n, n)
    x *= 30
    x[0] = -200  # e^200 is beyond float32
    same("silu", x)
    same("silu_backward", gy, x)
    same("add", gy, x)

    def in_place(total, x, total2, x2):
        totals = total.copy(), total2.copy()
        cuda.add_to(totals[0], x)
        cuda.add_all(totals, (x, x2))
        return totals

    totals = in_every_order(in_place, gy, x, gy[: n // 2], x[: n // 2])
    np.testing.assert_array_equal(totals[0], (gy + x) + x)
    np.testing.assert_array_equal(totals[1], gy[: n // 2] + x[: n // 2])


@few
@given(N=st.integers(1, 3), H=SIZE, W=SIZE, C=st.integers(1, 5))
def test_upsample_nearest(N, H, W, C):
    x, gy = draw(0, (N, H, W, C), (N, 2 * H, 2 * W, C))
    same("upsample_nearest", x, tolerance=0)
    same("upsample_nearest_backward", gy)


@pytest.mark.parametrize("C", [1, 2, 5, 32, 33])
@pytest.mark.parametrize("cosines_first", [False, True])
def test_timestep_features(C, cosines_first):
    t = np.array([0, 1, 7, 500, 999, 3999])
    expected = reference.timestep_features(t, C, 0.0, cosines_first, "float64")
    compute = lambda t: cuda.timestep_features(t, C, 0.0, cosines_first, "float32")  # noqa: E731
    (features,) = in_every_order(compute, t)
    check(features, expected, 1e-6)


@few
@given(N=st.integers(1, 4), P=st.integers(1, 70))
def test_q_sample(N, P):
    x0, noise, a, b = draw(0, (N, P), (N, P), N, N)
    same("q_sample", x0, noise, a, b)


@few
@given(n=st.integers(1, 500), step=st.integers(1, 3), averaged=st.booleans())
def test_adam_and_ema(n, step, averaged):
    param, grad, m, v, average = draw(0, n, n, n, n, n)
    v = np.abs(v)
    numbers = (step, 1e-3, 0.9, 0.99, 1e-8, 0.02, 0.7, 0.95)

    def updated(kernels):
        def run(*arrays):
            copies = [a.copy() for a in arrays]
            kernels.adam(*copies[:4], copies[4] if averaged else None, *numbers)
            kernels.ema(copies[4], copies[0], 0.9)
            return copies

        return run

    arrays = (param, grad, m, v, average)
    expected = updated(reference)(*arrays)
    for result, wanted in zip(in_every_order(updated(cuda), *arrays), expected, strict=True):
        check(result, wanted, 1e-5)


@pytest.mark.parametrize("value", [4.0, 1e-3, 0.0, np.inf, np.nan])
def test_clip_scale(value):
    squared = np.array(value)
    (scale,) = in_every_order(cuda.clip_scale, squared, 1.5)
    np.testing.assert_allclose(scale, reference.clip_scale(squared, 1.5), rtol=1e-6)


@few
@given(n=st.integers(2, 700), clip=st.booleans(), sigma=st.sampled_from([0.0, 0.3]))
def test_sampler_step(n, clip, sigma):
    x_t, output, noise = draw(0, n, n, n)
    coefficients = (1.2, -0.6, 0.1, 0.9, 0.2, sigma)
    same("sampler_step", x_t, output, noise if sigma else None, coefficients, clip)
    x_t[0] = np.nan
    results = in_every_order(cuda.sampler_step, x_t, output, noise, coefficients, clip)
    assert all(np.isnan(result[0]) and np.isfinite(result[1:]).all() for result in results)


@pytest.mark.parametrize("n", [1, 300, 5000])
def test_squared_norm(n):
    (x,) = draw(0, n)
    same("squared_norm", x, tolerance=1e-12)


# --- random.cu -----------------------------------------------------------------------------------

SEED, PURPOSE, STEP = 0xDEADBEEF, 7, (5 << 32) + 3
STREAM = (SEED, PURPOSE, STEP)


@pytest.mark.parametrize("first", [0, 3, 4 * ((1 << 32) - 1)])
@pytest.mark.parametrize("n", [0, 1, 281])
def test_random_numbers_are_the_very_same(n, first):
    for name in ("random_bits", "random_uniform"):
        on_device = getattr(cuda, name)(cupy_on_cpu, n, *STREAM, first)
        expected = getattr(reference, name)(np, n, *STREAM, first)
        np.testing.assert_array_equal(on_device.get(), expected)
        assert on_device.dtype == expected.dtype


def test_random_normal():
    (z,) = in_every_order(lambda: cuda.random_normal(cupy_on_cpu, 19_999, *STREAM, 6))
    check(z, reference.random_normal(np, 19_999, *STREAM, 6), 3e-6)


@few
@given(N=st.integers(1, 4), P=st.integers(1, 70))
def test_q_sample_normal(N, P):
    x0, a, b = draw(0, (N, P), N, N)
    same("q_sample_normal", x0, a, b, *STREAM, tolerance=3e-6)


@few
@given(n=st.integers(1, 700), p=st.sampled_from([0.0, 0.1, 0.5, 0.999]))
def test_dropout(n, p):
    (x,) = draw(0, n)
    same("dropout", x, p, *STREAM)


@few
@given(n=st.integers(1, 700), first=st.sampled_from([0, 1, 6, (1 << 34) + 3]))
def test_sampler_step_normal(n, first):
    x_t, output = draw(0, n, n)
    coefficients = (1.2, -0.6, 0.1, 0.9, 0.2, 0.3)
    same("sampler_step_normal", x_t, output, coefficients, True, *STREAM, first, tolerance=3e-6)


@few
@given(N=st.integers(1, 5), P=st.sampled_from([1, 3, 70, 400]))
def test_replayed(N, P):
    (x,) = draw(0, (N, P))
    results = in_every_order(lambda x: four_calls(cuda, x), x)
    for result, wanted in zip(results, flat(four_calls(reference, x)), strict=True):
        check(result, wanted, 2e-5)  # four calls, each of the result before it


# --- norm.cu -------------------------------------------------------------------------------------


@few
@given(
    N=st.integers(1, 3), P=st.sampled_from([1, 2, 7, 49, 100]), groups=st.sampled_from([1, 2, 3]),
    size=st.sampled_from([1, 3, 8, 32, 260]), with_silu=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_group_norm(N, P, groups, size, with_silu, seed):
    C = groups * size
    x, gy, weight, bias = draw(seed, (N, P, C), (N, P, C), C, C)
    name = "group_norm_silu" if with_silu else "group_norm"
    _, mean, rstd = same(name, x, weight, bias, groups, 1e-2, tolerance=5e-6)
    more = (bias,) if with_silu else ()
    stats = mean.astype(np.float32), rstd.astype(np.float32)
    partial = () if with_silu else (draw(1, x.shape)[0],)
    same(f"{name}_backward", gy, x, weight, *more, *stats, groups, *partial, tolerance=2e-5)


# --- attention.cu --------------------------------------------------------------------------------


@few
@given(
    N=st.integers(1, 2), L=st.sampled_from([1, 4, 31, 49, 70]), heads=st.sampled_from([1, 3]),
    D=st.sampled_from([1, 8, 33, 256, 257]), scale=st.sampled_from([1.0, 20.0]),
)  # fmt: skip
def test_attention(N, L, heads, D, scale):
    q, k, v, gy = draw(0, *[(N, L, heads * D)] * 4)
    q *= np.float32(scale)  # scores beyond the range of e^x
    same("attention", q, k, v, heads, tolerance=1e-5)
    same("attention_backward", gy, q, k, v, heads, tolerance=1e-4)


# --- convolution ---------------------------------------------------------------------------------


def drawn_convolution(draw_number, seed=0):
    """Arrays and sizes of a convolution whose window fits, of awkward shapes."""
    one_of = lambda *values: draw_number(st.sampled_from(values))  # noqa: E731
    KH, KW = one_of(1, 3), one_of(1, 2, 3)
    pad = [one_of(0, 1, 2) for _ in range(4)]
    H, W = (max(one_of(1, 2, 5, 7, 14), K - a - b) for K, a, b in ((KH, *pad[:2]), (KW, *pad[2:])))
    N, C, K = one_of(1, 2), one_of(1, 3, 8, 17, 20), one_of(1, 5, 8, 66)
    x, w, b = draw(seed, (N, H, W, C), (KH, KW, C, K), K)
    return x, w, b, one_of(1, 2, 3), (tuple(pad[:2]), tuple(pad[2:]))


@pytest.mark.parametrize("rung", convolution.RUNGS)
@few
@given(data=st.data())
def test_a_rung(rung, data):
    """Each rung with all that its loader and its store can do, and its gradients.

    Of numbers that the tensor cores need not round; test_tensor.py has others.
    """
    x, w, b, stride, padding = drawn_convolution(data.draw)
    how = convolution.RUNGS[rung]
    x, w = rounded(x, how.stored), rounded(w, how.stored)
    C1, up = data.draw(st.integers(1, x.shape[3])), data.draw(st.integers(0, 1))
    xs = tuple(np.ascontiguousarray(part) for part in np.split(x, [C1], axis=3) if part.shape[3])
    s = convolution.Sizes.of(xs, w.shape, stride, padding, up)
    shift, extra, gy = draw(1, (s.N, s.K), *[(s.N, s.OH, s.OW, s.K)] * 2)
    gy = rounded(gy, how.stored)
    with_all = data.draw(st.booleans())
    more = (shift, extra) if with_all else (None, None)
    seen = reference.upsample_nearest(x.astype(float)) if up else x.astype(float)
    expected = reference.conv2d(seen, w, b if with_all else None, stride, padding)
    if with_all:
        expected += shift[:, None, None] + extra

    def run(xs, w, b, shift, extra):
        y = cupy_on_cpu.empty(gy.shape, "float32")
        convolution.forward(s, xs, w, b, y, up=up, shift=shift, extra=extra, rung=how)
        return y

    (y,) = in_every_order(run, xs, w, b if with_all else None, *more)
    check(y, expected, 5e-6)

    def gradients(gy, xs, w):
        apart = convolution.gradients_apart(s, gy, xs, w, how, up)
        if how.file not in convolution.WHOLE_BACKWARD:
            return apart
        return apart, convolution.backward(s, gy, xs, w, up=up, rung=how)

    gx, gw, gb = reference.conv2d_backward(gy.astype(float), seen, w, stride, padding)
    gx = reference.upsample_nearest_backward(gx) if up else gx
    gxs = np.split(gx, [C1], axis=3)[: len(xs)]
    results = in_every_order(gradients, gy, xs, w)
    exact = (*gxs, gw, *gxs, gw, gy.sum(axis=(1, 2)), gb)
    for result, wanted in zip(results, exact[: len(results)], strict=True):
        check(result, wanted, 5e-6)


def test_an_argument_too_many_is_refused():
    with pytest.raises(TypeError, match="positional"):
        cuda.silu(np.ones(3, np.float32), 2)


@few
@given(data=st.data())
def test_conv2d(data):
    x, w, b, stride, padding = drawn_convolution(data.draw)
    expected = same("conv2d", x, w, b, stride, padding, tolerance=5e-6)
    (gy,) = draw(1, expected.shape)
    need_gx = data.draw(st.booleans())
    partial = x if need_gx and data.draw(st.booleans()) else None
    same("conv2d_backward", gy, x, w, stride, padding, need_gx, partial, tolerance=5e-6)


@few
@given(
    N=st.integers(1, 2), H=SIZE, W=SIZE, C_in=st.sampled_from([1, 8, 33]),
    C_out=st.sampled_from([1, 8, 20]), window=st.sampled_from([(4, 4, 2, 1), (3, 2, 1, 0)]),
    need_gx=st.booleans(), with_partial=st.booleans(),
)  # fmt: skip
def test_conv_transpose2d(N, H, W, C_in, C_out, window, need_gx, with_partial):
    KH, KW, stride, pad = window
    how = stride, ((pad, pad), (pad, pad))
    x, w, b = draw(0, (N, H, W, C_in), (KH, KW, C_out, C_in), C_out)
    y = same("conv_transpose2d", x, w, b, *how, tolerance=5e-6)
    (gy,) = draw(1, y.shape)
    partial = x if need_gx and with_partial else None
    same("conv_transpose2d_backward", gy, x, w, *how, need_gx, partial, tolerance=5e-6)


@few
@given(
    rows=st.sampled_from([1, 7, 130]), K=st.sampled_from([1, 8, 70]),
    parts=st.sampled_from([(1,), (8,), (4, 8), (3, 2), (1, 2, 3)]),
)  # fmt: skip
def test_linear(rows, parts, K):
    w, b, gy, *xs = draw(0, (sum(parts), K), K, (rows, 1, K), *[(rows, 1, c) for c in parts])
    same("linear", tuple(xs), w, b, tolerance=5e-6)
    same("linear_backward", gy, tuple(xs), w, tolerance=5e-6)
    same("linear", tuple(xs), w, b, gy, tolerance=5e-6)
    same("linear_backward", gy, tuple(xs), w, (None, *xs[1:]), tolerance=5e-6)


@few
@given(
    shape=st.sampled_from([(1,), (7,), (3, 49), (130,)]), C=st.sampled_from([1, 8, 66]),
    Ks=st.sampled_from([(1,), (8, 8, 8), (3, 70), (32, 64) * 9]), with_partial=st.booleans(),
)  # fmt: skip
def test_linears(shape, C, Ks, with_partial):
    x, partial, *ws = draw(0, (*shape, C), (*shape, C), *[(C, K) for K in Ks])
    bs, gys = draw(1, *Ks), draw(2, *[(*shape, K) for K in Ks])
    same("linears", x, tuple(ws), tuple(bs), tolerance=5e-6)
    same(
        "linears_backward",
        tuple(gys),
        x,
        tuple(ws),
        partial if with_partial else None,
        tolerance=5e-6,
    )


@few
@given(N=st.integers(1, 2), H=SIZE, W=SIZE, C=st.sampled_from([1, 4]), K=st.sampled_from([1, 8]))
def test_upsample_conv2d(N, H, W, C, K):
    x, w, b, gy = draw(0, (N, H, W, C), (3, 3, C, K), K, (N, 2 * H, 2 * W, K))
    same("upsample_conv2d", x, w, b, tolerance=5e-6)
    same("upsample_conv2d_backward", gy, x, w, tolerance=5e-6)


@few
@given(
    N=st.integers(1, 2), H=SIZE, W=SIZE,
    parts=st.sampled_from([(2,), (8,), (4, 8), (3, 5), (1, 2, 3)]), K=st.sampled_from([1, 8]),
    with_shift=st.booleans(), with_more=st.booleans(),
)  # fmt: skip
def test_norm_silu_conv2d(N, H, W, parts, K, with_shift, with_more):
    C = sum(parts)
    weight, bias, w, b, shift, extra, gy, *xs = draw(
        0, C, C, (3, 3, C, K), K, (N, K), *[(N, H, W, K)] * 2, *[(N, H, W, c) for c in parts]
    )
    groups, xs, partial = 2 if C % 2 == 0 else 1, tuple(xs), ()
    if with_more:
        partial = (None, *draw(1, *[(N, H, W, c) for c in parts[1:]]))
    arrays = (xs, weight, bias, w, b, shift if with_shift else None, extra if with_more else None)
    double = mapped(lambda a: a.astype(float), arrays, np.ndarray)
    y, stats = reference.norm_silu_conv2d(*double[:3], groups, 1e-2, *double[3:])

    def both(xs, weight, bias, w, b, shift, extra, gy, partial):
        y, kept = cuda.norm_silu_conv2d(xs, weight, bias, groups, 1e-2, w, b, shift, extra)
        return y, cuda.norm_silu_conv2d_backward(gy, xs, weight, bias, kept, groups, w, partial)

    results = in_every_order(both, *arrays, gy, partial)
    check(results[0], y, 5e-6)
    exact = reference.norm_silu_conv2d_backward(
        gy.astype(float), *double[:3], stats, groups, double[3], partial
    )
    for result, expected in zip(results[1:], flat(exact), strict=True):
        check(result, expected, 2e-5)


@settings(max_examples=6, deadline=None)
@given(
    N=st.integers(1, 2), H=SIZE, W=SIZE, C=st.sampled_from([1, 8, 33]),
    K=st.sampled_from([1, 8, 66]), pad=st.tuples(*[st.integers(0, 2)] * 4), full=st.booleans(),
)  # fmt: skip
def test_winograd(N, H, W, C, K, pad, full):
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < 3 or W + sum(padding[1]) < 3:
        return
    x, w, b, shift = draw(0, (N, H, W, C), (3, 3, C, K), K, (N, K))
    s = convolution.Sizes.of((x,), w.shape, 1, padding)
    extra, gy = draw(1, *[(N, s.OH, s.OW, K)] * 2)
    expected = reference.conv2d(x.astype(float), w, b if full else None, 1, padding)
    if full:
        expected += shift[:, None, None] + extra
    gradients = reference.conv2d_backward(gy, x.astype(float), w, 1, padding)

    def both(x, w, b, shift, extra, gy):
        y = cupy_on_cpu.empty(gy.shape, "float32")
        winograd.forward(s, (x,), w, b, y, shift=shift, extra=extra)
        return y, winograd.backward(s, gy, (x,), w)

    more = (b, shift, extra) if full else (None, None, None)
    results = in_every_order(both, x, w, *more, gy)
    wanted = (expected, *gradients[:2], gy.sum(axis=(1, 2)), gradients[2])
    for result, exact in zip(results, wanted, strict=True):
        check(result, exact, 3e-5)  # F(4x4), as on the CPU


def test_which_convolutions_winograd_takes():
    x, w = np.zeros((1, 8, 8, 256), np.float32), (3, 3, 256, 256)
    same_size = ((1, 1), (1, 1))

    def takes(xs=(x,), w=w, stride=1, up=0):
        s = convolution.Sizes.of(xs, w, stride, same_size, up)
        return winograd.pays(s, xs, up)

    assert takes()
    assert not takes((x.astype(np.float16),))
    assert not takes(stride=2)
    assert not takes(up=1)
    assert not takes(w=(3, 3, 256, 64))
    assert not takes(w=(1, 1, 256, 256))
    assert not takes((x[..., :128], x[..., 128:]))
