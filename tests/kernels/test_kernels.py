"""Every kernel set against the naive loops, on awkward sizes."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import naive
from minddpm import backend
from minddpm.gpucheck.cases import four_calls
from minddpm.kernels import reference
from minddpm.kernels.cpu.ladder import choose as ladder

SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 14])
CHANNELS = st.sampled_from([1, 3, 5, 32])
few = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def device(*arrays):
    return [backend.xp.asarray(a) for a in arrays]


# Winograd's F(4x4) adds and subtracts numbers that nearly cancel: its error is up to 3e-5 of the
# largest entry, where the direct sum has 1e-6.
WINOGRAD = 3e-5


def check(result, expected, tolerance=1e-5):
    """Largest error relative to the largest entry; a NaN fails."""
    result = backend.to_numpy(result)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


@few
@given(
    N=st.integers(1, 3), H=SIZES, W=SIZES, C_in=CHANNELS, C_out=CHANNELS,
    KH=st.sampled_from([1, 3]), KW=st.sampled_from([1, 2, 3]), stride=st.sampled_from([1, 2, 3]),
    pad=st.tuples(*[st.integers(0, 2)] * 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_conv2d(any_backend, N, H, W, C_in, C_out, KH, KW, stride, pad, seed):
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < KH or W + sum(padding[1]) < KW:
        return  # no output pixel at all: conv2d of the autodiff refuses it
    x, w, b = draw(seed, (N, H, W, C_in), (KH, KW, C_in, C_out), (C_out,))
    y = backend.kernels.conv2d(*device(x, w, b), stride, padding)
    check(y, naive.conv2d(x, w, b, stride, padding), WINOGRAD)


@few
@given(
    **{size: st.integers(1, 9) for size in "HW"}, N=st.integers(1, 3), C=CHANNELS, K=CHANNELS,
    stride=st.sampled_from([1, 2]), pad=st.tuples(*[st.integers(0, 2)] * 4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_every_rung_of_the_ladder(N, H, W, C, K, stride, pad, seed):
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < 3 or W + sum(padding[1]) < 3:
        return
    x, w, b = draw(seed, (N, H, W, C), (3, 3, C, K), (K,))
    y = exactly("conv2d", x, w, b, stride, padding)
    (gy,) = draw(seed + 1, y.shape)
    gradients = exactly("conv2d_backward", gy, x, w, stride, padding)
    for name, rung in ladder.LADDER.items():
        if rung.fits(x.shape, w.shape, stride, padding):
            tolerance = WINOGRAD if "F(4x4)" in name else 3e-6
            check(rung.forward(x, w, b, stride, padding), y, tolerance)
            results = rung.backward(gy, x, w, stride, padding)
            for gradient, expected in zip(results, gradients, strict=True):
                check(gradient, expected, tolerance)


def exactly(function, *arguments):
    """A reference function in float64."""
    wide = [
        tuple(a.astype(float) for a in x)
        if isinstance(x, tuple) and isinstance(x[0], np.ndarray)
        else x.astype(float)
        if isinstance(x, np.ndarray)
        else x
        for x in arguments
    ]
    return getattr(reference, function)(*wide)


ANY_SIZE = {
    "N": st.integers(1, 5), "H": st.integers(1, 33), "W": st.integers(1, 33),
    "C": st.integers(1, 130), "K": st.integers(1, 130), "seed": st.integers(0, 99),
}  # fmt: skip


@few
@given(
    **ANY_SIZE, window=st.sampled_from([1, 2, 3, 3, 3]), stride=st.sampled_from([1, 1, 2, 3]),
    pad=st.tuples(*[st.integers(0, 2)] * 4),
)  # fmt: skip
def test_conv2d_of_any_size_against_float64(any_backend, N, H, W, C, K, seed, window, stride, pad):
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < window or W + sum(padding[1]) < window:
        return
    x, w, b = draw(seed, (N, H, W, C), (window, window, C, K), (K,))
    y = exactly("conv2d", x, w, b, stride, padding)
    check(backend.kernels.conv2d(*device(x, w, b), stride, padding), y, WINOGRAD)
    (gy,) = draw(seed + 1, y.shape)
    results = backend.kernels.conv2d_backward(*device(gy, x, w), stride, padding)
    for gradient, expected in zip(
        results, exactly("conv2d_backward", gy, x, w, stride, padding), strict=True
    ):
        check(gradient, expected, WINOGRAD)


@few
@given(
    N=st.integers(1, 3), H=SIZES, W=SIZES, C_in=CHANNELS, C_out=CHANNELS,
    K=st.sampled_from([1, 3]), stride=st.sampled_from([1, 2, 3]),
    pad=st.tuples(*[st.integers(0, 2)] * 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_conv2d_backward_is_the_transpose(any_backend, N, H, W, C_in, C_out, K, stride, pad, seed):
    """conv2d is linear in x, w and b, so its backward is fixed by three equal inner products:

    <gy, conv(dx, w)> = <gx, dx>;  <gy, conv(x, dw)> = <gw, dw>;  sum gy db = <gb, db>
    """
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < K or W + sum(padding[1]) < K:
        return
    x, w, dx, dw, db = draw(
        seed, (N, H, W, C_in), (K, K, C_in, C_out), (N, H, W, C_in), (K, K, C_in, C_out), (C_out,)
    )
    (gy,) = draw(seed + 1, naive.conv2d(x, w, 0, stride, padding).shape)
    gx, gw, gb = backend.kernels.conv2d_backward(*device(gy, x, w), stride, padding)
    for gradient, change, effect in (
        (gx, dx, naive.conv2d(dx, w, 0, stride, padding)),
        (gw, dw, naive.conv2d(x, dw, 0, stride, padding)),
        (gb, db, np.broadcast_to(db, gy.shape)),
    ):
        gradient = backend.to_numpy(gradient)
        assert gradient.shape == change.shape
        scale = np.sqrt((gy**2).sum() * (effect**2).sum()) + 1
        assert abs((gy * effect).sum() - (gradient * change).sum()) <= 1e-5 * scale


def test_conv2d_backward_leaves_out_gx_when_nobody_needs_it(any_backend):
    x, w, gy = device(*draw(0, (1, 4, 4, 2), (3, 3, 2, 2), (1, 2, 2, 2)))
    gx, gw, _ = backend.kernels.conv2d_backward(gy, x, w, 1, ((0, 0), (0, 0)), need_gx=False)
    assert gx is None
    assert gw.shape == w.shape


# (KH, KW, stride, padding): DCGAN's, each way of the CPU's kernels, and awkward ones.
TRANSPOSED = st.one_of(
    st.just((4, 4, 2, ((1, 1), (1, 1)))),
    st.just((3, 3, 1, ((1, 1), (2, 0)))),
    st.just((1, 1, 1, ((0, 0), (0, 0)))),
    st.tuples(
        st.integers(1, 4), st.integers(1, 3), st.integers(1, 3),
        st.tuples(*[st.tuples(*[st.integers(0, 2)] * 2)] * 2),
    ),
)  # fmt: skip


@few
@given(
    N=st.integers(1, 3), H=st.sampled_from([1, 2, 5, 7]), W=st.sampled_from([1, 3, 8]),
    C_in=CHANNELS, C_out=CHANNELS, how=TRANSPOSED, seed=st.integers(0, 99),
)  # fmt: skip
def test_conv_transpose2d(any_backend, N, H, W, C_in, C_out, how, seed):
    KH, KW, stride, padding = how
    x, w, b = draw(seed, (N, H, W, C_in), (KH, KW, C_out, C_in), (C_out,))
    y = naive.conv_transpose2d(x, w, b, stride, padding)
    if 0 in y.shape:
        return  # the padding cuts everything off: the autodiff refuses it
    check(backend.kernels.conv_transpose2d(*device(x, w, b), stride, padding), y, WINOGRAD)
    # <y, conv_transpose2d(x)> = <conv2d(y), x>: what it is called after
    (v,) = draw(seed + 1, y.shape)
    left, right = (v * (y - b)).sum(), (naive.conv2d(v, w, 0, stride, padding) * x).sum()
    assert abs(left - right) <= 1e-10 * np.sqrt((v**2).sum() * (y**2).sum())


# Those that go to rung 3, to Winograd by sub-pixels, and to a matrix product on the CPU.
SHAPES_OF_A_GENERATOR = [
    ((3, 7, 7, 33), 20, 4, 2, 1),
    ((3, 14, 14, 32), 1, 4, 2, 1),
    ((9, 8, 8, 33), 20, 4, 2, 1),
    ((17, 4, 4, 8), 5, 4, 2, 1),
    ((5, 1, 1, 40), 9, 7, 1, 0),
    ((5, 1, 1, 40), 9, 4, 2, 1),
    ((2, 9, 9, 16), 16, 3, 1, 1),
    ((2, 5, 5, 3), 4, 2, 3, 0),
]


@pytest.mark.parametrize(("x_shape", "C_out", "K", "stride", "pad"), SHAPES_OF_A_GENERATOR)
def test_conv_transpose2d_of_a_generator(any_backend, x_shape, C_out, K, stride, pad):
    padding = ((pad, pad), (pad, pad))
    x, w, b = draw(0, x_shape, (K, K, C_out, x_shape[3]), (C_out,))
    y = exactly("conv_transpose2d", x, w, b, stride, padding)
    check(backend.kernels.conv_transpose2d(*device(x, w, b), stride, padding), y, WINOGRAD)
    gy, partial = draw(1, y.shape, x.shape)
    arrays = device(gy, x, w)
    exact = exactly("conv_transpose2d_backward", gy, x, w, stride, padding)
    results = backend.kernels.conv_transpose2d_backward(*arrays, stride, padding)
    for gradient, expected in zip(results, exact, strict=True):
        check(gradient, expected, WINOGRAD)
    gx, _, _ = backend.kernels.conv_transpose2d_backward(
        *arrays, stride, padding, True, *device(partial)
    )
    check(gx, exact[0] + partial, WINOGRAD)
    gx, gw, gb = backend.kernels.conv_transpose2d_backward(*arrays, stride, padding, False)
    assert gx is None
    check(gw, exact[1], WINOGRAD)
    check(gb, exact[2], WINOGRAD)


@few
@given(
    N=st.integers(1, 3), H=st.sampled_from([1, 2, 5, 7]), W=st.sampled_from([1, 3, 8]),
    C_in=CHANNELS, C_out=CHANNELS, how=TRANSPOSED, seed=st.integers(0, 99),
)  # fmt: skip
def test_conv_transpose2d_backward_is_the_transpose(
    any_backend, N, H, W, C_in, C_out, how, seed
):  # fmt: skip
    """It is linear in x, w and b: see test_conv2d_backward_is_the_transpose."""
    KH, KW, stride, padding = how
    x, w, dx, dw, db = draw(
        seed, *[(N, H, W, C_in), (KH, KW, C_out, C_in)] * 2, (C_out,)
    )  # fmt: skip
    y = naive.conv_transpose2d(x, w, 0, stride, padding)
    if 0 in y.shape:
        return
    (gy,) = draw(seed + 1, y.shape)
    gradients = backend.kernels.conv_transpose2d_backward(*device(gy, x, w), stride, padding)
    effects = (
        naive.conv_transpose2d(dx, w, 0, stride, padding),
        naive.conv_transpose2d(x, dw, 0, stride, padding),
        np.broadcast_to(db, gy.shape),
    )
    for gradient, change, effect in zip(gradients, (dx, dw, db), effects, strict=True):
        gradient = backend.to_numpy(gradient)
        assert gradient.shape == change.shape
        scale = np.sqrt((gy**2).sum() * (effect**2).sum()) + 1
        assert abs((gy * effect).sum() - (gradient * change).sum()) <= 1e-5 * scale


@few
@given(
    N=st.integers(1, 3), H=SIZES, W=SIZES, groups=st.sampled_from([1, 2, 3]),
    size=st.sampled_from([1, 4, 5]), seed=st.integers(0, 99),
)  # fmt: skip
def test_group_norm(any_backend, N, H, W, groups, size, seed):
    C = groups * size
    x, weight, bias = draw(seed, (N, H, W, C), (C,), (C,))
    expected = naive.group_norm(x, weight, bias, groups, 1e-5)
    arrays = device(x, weight, bias)
    check(backend.kernels.group_norm(*arrays, groups, 1e-5)[0], expected)
    silu, mean, rstd = backend.kernels.group_norm_silu(*arrays, groups, 1e-5)
    check(silu, naive.silu(expected))
    assert mean.shape == rstd.shape == (N, groups)


def test_group_norm_with_a_mean_far_above_the_spread(any_backend):
    """E[x^2] - E[x]^2 in float32 would be all rounding here."""
    (x,) = draw(0, (2, 7, 7, 8))
    x += 1000
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    y = backend.kernels.group_norm(*device(x, ones, zeros), 2, 1e-5)[0]
    check(y, naive.group_norm(x, ones, zeros, 2, 1e-5), tolerance=1e-3)  # x itself has 6e-5


def test_group_norm_with_an_outlier_in_the_first_pixel(any_backend):
    """A one-pass variance around the first pixel would cancel here."""
    (x,) = draw(0, (1, 14, 14, 32))
    x = 1 + x / 100
    x[:, 0, 0] = -50
    ones, zeros = np.ones(32, np.float32), np.zeros(32, np.float32)
    y = backend.kernels.group_norm(*device(x, ones, zeros), 4, 1e-5)[0]
    check(y, naive.group_norm(x, ones, zeros, 4, 1e-5))


@few
@given(size=st.integers(1, 700), seed=st.integers(0, 99))
def test_silu_of_any_size(any_backend, size, seed):
    x, gy = (8 * a for a in draw(seed, (size,), (size,)))
    check(backend.kernels.silu(*device(x)), exactly("silu", x))
    check(backend.kernels.silu_backward(*device(gy, x)), exactly("silu_backward", gy, x))


def test_silu_does_not_overflow(any_backend):
    x = np.array([-1e4, -89.0, -1.0, 0.0, 1.0, 89.0, 1e4], np.float32)
    expected = np.array([0, -89 / (1 + np.exp(89)), *naive.silu(x[2:5]), 89, 1e4])
    (x,) = device(x)
    check(backend.kernels.silu(x) / 1e4, expected / 1e4)
    slope = backend.to_numpy(backend.kernels.silu_backward(backend.xp.ones_like(x), x))
    np.testing.assert_allclose(slope[[0, 1, 3, 5, 6]], [0, 0, 0.5, 1, 1], atol=1e-6)


@few
@given(
    N=st.integers(1, 5), H=SIZES, W=SIZES, parts=st.sampled_from([(32,), (64, 32), (5,), (4, 12)]),
    groups=st.sampled_from([1, 2, 4]), K=st.sampled_from([1, 5, 32, 40]), per_image=st.booleans(),
    with_extra=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_norm_silu_conv2d(any_backend, N, H, W, parts, groups, K, per_image, with_extra, seed):
    C = sum(parts)
    if C % groups:
        return
    weight, bias, w, b, shift, extra, gy, *xs = draw(
        seed, (C,), (C,), (3, 3, C, K), (K,), (N, K), (N, H, W, K), (N, H, W, K),
        *[(N, H, W, c) for c in parts],
    )  # fmt: skip
    w /= np.sqrt(9 * C).astype(np.float32)
    if H * W * C // groups > 1:  # a single number minus its mean is 0, and its sign is rounding
        x = np.concatenate(xs, axis=-1)
        h = naive.silu(naive.group_norm(x, weight, bias, groups, 1e-5))
        y = naive.conv2d(h, w, 0, 1, ((1, 1), (1, 1)))
        y += b + (shift[:, None, None, :] if per_image else 0)
        y += extra if with_extra else 0
        on_device = tuple(device(*xs))
        arrays = (on_device, *device(weight, bias), groups, 1e-5, *device(w, b))
        result, kept = backend.kernels.norm_silu_conv2d(
            *arrays,
            *(device(shift) if per_image else [None]),
            *(device(extra) if with_extra else [None]),
        )
        check(result, y, WINOGRAD)
        gradients = backend.kernels.norm_silu_conv2d_backward(
            *device(gy), *arrays[:3], kept, groups, *device(w)
        )
        exact = reference.norm_silu_conv2d_backward(
            gy.astype(float), tuple(a.astype(float) for a in xs), weight.astype(float), bias,
            tuple(backend.to_numpy(a).astype(float) for a in kept[:2]), groups, w.astype(float),
        )  # fmt: skip
        for part, expected in zip(gradients[0], exact[0], strict=True):
            check(part, expected, tolerance=1e-4)
        for gradient, expected in zip(gradients[1:], exact[1:], strict=True):
            check(gradient, expected, tolerance=1e-4)


@few
@given(N=st.integers(1, 3), H=SIZES, W=SIZES, C=CHANNELS, K=CHANNELS, seed=st.integers(0, 99))
def test_upsample_conv2d(any_backend, N, H, W, C, K, seed):
    x, w, b, gy = draw(seed, (N, H, W, C), (3, 3, C, K), (K,), (N, 2 * H, 2 * W, K))
    w /= np.sqrt(9 * C).astype(np.float32)
    up = naive.upsample_nearest(x)
    y = naive.conv2d(up, w, b, 1, ((1, 1), (1, 1)))
    check(backend.kernels.upsample_conv2d(*device(x, w, b)), y, WINOGRAD)
    gx, gw, gb = backend.kernels.upsample_conv2d_backward(*device(gy, x, w))
    exact = reference.upsample_conv2d_backward(*(a.astype(float) for a in (gy, x, w)))
    for gradient, expected in zip((gx, gw, gb), exact, strict=True):
        check(gradient, expected, tolerance=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("C", "K", "window"), [(32, 32, 3), (5, 3, 3), (32, 1, 3), (64, 40, 1)])
def test_a_non_finite_pixel_reaches_what_depends_on_it(any_backend, value, C, K, window):
    x, w, b = draw(0, (2, 9, 9, C), (window, window, C, K), (K,))
    x[1, 4, 4, C // 2] = value
    reach = window // 2
    padding = ((reach, reach), (reach, reach))
    y = backend.to_numpy(backend.kernels.conv2d(*device(x, w, b), 1, padding))
    assert np.isfinite(y[0]).all()
    seen = y[1, 4 - reach : 5 + reach, 4 - reach : 5 + reach]
    assert not np.isfinite(seen).any()


ATTENTION = given(
    N=st.integers(1, 3), L=st.sampled_from([1, 4, 9, 15, 16, 17, 33, 49]),
    heads=st.integers(1, 3), D=st.sampled_from([1, 5, 8, 32]), seed=st.integers(0, 99),
)  # fmt: skip


@few
@ATTENTION
def test_attention(any_backend, N, L, heads, D, seed):
    q, k, v = draw(seed, *[(N, L, heads * D)] * 3)
    expected = naive.attention(*(a.astype(np.float64) for a in (q, k, v)), heads)
    check(backend.kernels.attention(*device(q, k, v), heads), expected)


@few
@ATTENTION
def test_attention_backward(any_backend, N, L, heads, D, seed):
    """Against the reference in float64, which tests/test_gradcheck.py holds against differences."""
    arrays = draw(seed, *[(N, L, heads * D)] * 4)
    expected = reference.attention_backward(*(a.astype(np.float64) for a in arrays), heads)
    results = backend.kernels.attention_backward(*device(*arrays), heads)
    for result, value in zip(results, expected, strict=True):
        check(result, value)


def test_attention_hands_on_a_nan_within_its_head_only(any_backend):
    q, k, v, gy = draw(0, *[(3, 17, 3 * 8)] * 4)
    k[1, 16, 8 + 2] = np.nan  # the last key, of image 1 and head 1
    hit = np.zeros(q.shape, bool)
    hit[1, :, 8:16] = True
    y = backend.kernels.attention(*device(q, k, v), 3)
    gradients = backend.kernels.attention_backward(*device(gy, q, k, v), 3)
    for result in (y, *gradients):
        assert (np.isnan(backend.to_numpy(result)) == hit).all()


def test_attention_with_huge_scores_is_stable(any_backend):
    """exp(1000) overflows; softmax of scores that far apart picks the largest."""
    q = np.full((1, 2, 4), 100, np.float32)
    k = np.stack([q[0, 0], -q[0, 0]])[None]
    (v,) = draw(0, (1, 2, 4))
    check(backend.kernels.attention(*device(q, k, v), 1), np.stack([v[:, 0], v[:, 0]], axis=1))


@few
@given(N=st.integers(1, 2), H=SIZES, W=SIZES, C=CHANNELS, seed=st.integers(0, 99))
def test_upsample_nearest(any_backend, N, H, W, C, seed):
    x, gy = draw(seed, (N, H, W, C), (N, 2 * H, 2 * W, C))
    y = naive.upsample_nearest(x)
    check(backend.kernels.upsample_nearest(*device(x)), y)
    gx = backend.to_numpy(backend.kernels.upsample_nearest_backward(*device(gy)))
    assert (gx * x).sum() == pytest.approx((gy * y).sum(), rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("parts", [(5,), (32,), (64, 32), (3, 7)])
@pytest.mark.parametrize("C_out", [1, 7, 32, 70])
@pytest.mark.parametrize("rows", [(2, 3), (33, 9)])
def test_linear_of_parts_that_stand_side_by_side(any_backend, rows, parts, C_out):
    C = sum(parts)
    w, b, gy, *xs = draw(0, (C, C_out), (C_out,), (*rows, C_out), *[(*rows, c) for c in parts])
    x = np.concatenate(xs, axis=-1).astype(float)
    on_device = tuple(device(*xs))
    check(backend.kernels.linear(on_device, *device(w, b)), x @ w + b)
    gxs, gw, gb = backend.kernels.linear_backward(*device(gy), on_device, *device(w))
    gx = gy.astype(float) @ w.T
    starts = np.cumsum(parts)[:-1]
    for part, expected in zip(gxs, np.split(gx, starts, axis=-1), strict=True):
        check(part, expected)
    flat = gy.reshape(-1, C_out)
    check(gw, x.reshape(-1, C).T @ flat)
    check(gb, flat.sum(axis=0))


@pytest.mark.parametrize("shape", [(), (1,), (3, 7), (70, 1000)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_add(any_backend, shape, dtype):
    a, b = device(*(np.asarray(x).astype(dtype) for x in draw(0, shape, shape)))
    before, expected = a.copy(), np.asarray(backend.to_numpy(a) + backend.to_numpy(b))
    total = backend.kernels.add(a, b)
    assert total.dtype == dtype
    backend.kernels.add_to(a, b)
    same((total, a), (expected, expected))
    total[...] = 0
    same((a,), (expected,))
    strided = backend.xp.repeat(before[..., None], 2, axis=-1)
    backend.kernels.add_to(strided[..., 0], b)
    same((strided[..., 0], strided[..., 1]), (expected, before))


@pytest.mark.parametrize("p", [0.0, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 33, 33, 5)])
def test_dropout(any_backend, shape, p):
    (x,) = draw(0, shape)
    u = backend.to_numpy(reference.random_uniform(np, x.size, 5, 6, 7)).reshape(shape)
    y = backend.kernels.dropout(*device(x), p, 5, 6, 7)
    check(y, np.where(u >= np.float32(p), x / (1 - p), 0))


def test_q_sample_has_one_pair_of_coefficients_per_image(any_backend):
    x0, noise, a, b = draw(0, (3, 2, 2, 1), (3, 2, 2, 1), (3,), (3,))
    expected = np.stack([a[n] * x0[n] + b[n] * noise[n] for n in range(3)])
    check(backend.kernels.q_sample(*device(x0, noise, a, b)), expected)


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 0.7])
def test_sampler_step(any_backend, clip, sigma):
    x_t, output, noise = draw(0, *[(2, 3, 3, 1)] * 3)
    px, po, k0, kx, ko = 1.5, -0.9, 0.3, 0.6, 0.2
    pred_x0 = px * x_t + po * output
    assert (np.abs(pred_x0) > 1).any()
    if clip:
        pred_x0 = np.clip(pred_x0, -1, 1)
    x_prev = k0 * pred_x0 + kx * x_t + ko * output + sigma * noise
    z = None if sigma == 0 else noise
    arrays = [None if a is None else backend.xp.asarray(a) for a in (x_t, output, z)]
    result = backend.kernels.sampler_step(*arrays, (px, po, k0, kx, ko, sigma), clip)
    check(result[0], x_prev)
    check(result[1], pred_x0)


SHAPES = [(1, 1), (3, 5, 7, 1), (2, 28, 28, 1), (3, 33, 33, 3), (1500, 1, 1, 1)]


def same(results, expected):
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(result), backend.to_numpy(value))


@pytest.mark.parametrize("shape", SHAPES)
def test_q_sample_normal_is_random_normal_and_q_sample(any_backend, shape):
    k, key = backend.kernels, (4, 5, 6)
    x0, a, b = device(*draw(0, shape, shape[:1], shape[:1]))
    z = k.random_normal(backend.xp, x0.size, *key).reshape(shape)
    same(k.q_sample_normal(x0, a, b, *key), (k.q_sample(x0, z, a, b), z))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("first", [0, 1, 2, 3, 2**34 + 7])
@pytest.mark.parametrize("shape", SHAPES)
def test_sampler_step_normal_is_random_normal_and_sampler_step(any_backend, shape, first, clip):
    k, key, coefficients = (
        backend.kernels,
        (4, 5, 2**33 + 6, first),
        (1.5, -0.9, 0.3, 0.6, 0.2, 0.7),
    )
    x_t, output = device(*draw(0, shape, shape))
    z = k.random_normal(backend.xp, x_t.size, *key).reshape(shape)
    expected = k.sampler_step(x_t, output, z, coefficients, clip)
    same(k.sampler_step_normal(x_t, output, coefficients, clip, *key), expected)


@pytest.mark.parametrize("shape", [(1, 1), (3, 2, 5)])
def test_a_replayed_function_gives_what_it_gives_eagerly(any_backend, shape):
    (x,) = device(*draw(0, shape))
    calls = [four_calls(backend.kernels, x, replay=replay) for replay in (False, True)]
    assert len(calls[0]) == 4
    for result, expected in zip(*calls, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(result), backend.to_numpy(expected))
    same([x], draw(0, shape))  # which is not written to


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("step", [1, 7, 5000])
def test_adam(any_backend, weight_decay, step):
    param, grad, m, v = draw(step, *[(50,)] * 4)
    v = np.abs(v)
    options = (step, 1e-2, 0.9, 0.999, 1e-8, weight_decay, 0.5)
    expected = naive.adam(param, grad, m, v, *options)
    param, grad, m, v = device(param, grad, m, v)
    before = grad.copy()
    backend.kernels.adam(param, grad, m, v, None, *options, 0.0)
    for result, value in zip((param, m, v), expected, strict=True):
        check(result, value)
    assert (grad == before).all()


@pytest.mark.parametrize("size", [1, 7, 33, 5000])
def test_adam_with_the_average_is_adam_and_then_ema(any_backend, size):
    arrays = draw(size, *[(size,)] * 5)
    arrays[3] = np.abs(arrays[3])
    options = (3, 1e-2, 0.9, 0.999, 1e-8, 0.1, 0.5)
    together, apart = device(*(a.copy() for a in arrays)), device(*(a.copy() for a in arrays))
    backend.kernels.adam(*together, *options, 0.9)
    param, _, _, _, average = apart
    backend.kernels.adam(*apart[:4], None, *options, 0.9)
    backend.kernels.ema(average, param, 0.9)
    for one, other in zip(together, apart, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(one), backend.to_numpy(other))
    check(average, 0.9 * arrays[4].astype(float) + 0.1 * backend.to_numpy(param))


@pytest.mark.parametrize("size", [1, 5, 16383, 16384, 100_003])
def test_squared_norm(any_backend, size):
    (x,) = draw(size, (size,))
    square = backend.kernels.squared_norm(*device(x)).item()
    assert square == pytest.approx((x.astype(float) ** 2).sum(), rel=1e-6)
    for where in (0, size // 2, size - 1):
        x[where] = np.nan
        assert np.isnan(backend.kernels.squared_norm(*device(x)).item())
        x[where] = 0


def test_ema(any_backend):
    average, param = draw(0, (50,), (50,))
    expected = 0.9 * average.astype(float) + 0.1 * param
    (average, param) = device(average, param)
    backend.kernels.ema(average, param, 0.9)
    check(average, expected)
