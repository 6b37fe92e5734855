"""Pointwise kernels, upsampling and the linear layer against NumPy and the naive loops."""

import numpy as np
import pytest
from builders import draw
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import CHANNELS, SIZES, check, check_equal, device, few_examples, in_float64

import naive
from minddpm import backend
from minddpm.kernels import reference


@few_examples
@given(size=st.integers(1, 700), seed=st.integers(0, 99))
def test_silu_of_any_size(any_backend, size, seed):
    x, gy = (8 * a for a in draw(seed, (size,), (size,)))
    check(backend.kernels.silu(*device(x)), in_float64("silu", x))
    check(backend.kernels.silu_backward(*device(gy, x)), in_float64("silu_backward", gy, x))


def test_silu_does_not_overflow(any_backend):
    x = np.array([-1e4, -89.0, -1.0, 0.0, 1.0, 89.0, 1e4], np.float32)
    expected = np.array([0, -89 / (1 + np.exp(89)), *naive.silu(x[2:5]), 89, 1e4])
    (x,) = device(x)
    check(backend.kernels.silu(x) / 1e4, expected / 1e4)
    slope = backend.to_numpy(backend.kernels.silu_backward(backend.xp.ones_like(x), x))
    np.testing.assert_allclose(slope[[0, 1, 3, 5, 6]], [0, 0, 0.5, 1, 1], atol=1e-6)


@pytest.mark.parametrize("shape", [(), (1,), (3, 7), (70, 1000)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_add(any_backend, shape, dtype):
    a, b = device(*(np.asarray(x).astype(dtype) for x in draw(0, shape, shape)))
    before, expected = a.copy(), np.asarray(backend.to_numpy(a) + backend.to_numpy(b))
    total = backend.kernels.add(a, b)
    assert total.dtype == dtype
    backend.kernels.add_to(a, b)
    check_equal((total, a), (expected, expected))
    total[...] = 0
    check_equal((a,), (expected,))
    strided = backend.xp.repeat(before[..., None], 2, axis=-1)
    backend.kernels.add_to(strided[..., 0], b)
    check_equal((strided[..., 0], strided[..., 1]), (expected, before))


@pytest.mark.parametrize("first", [0, 1, 2, 3, 2**34 + 7])
@pytest.mark.parametrize("p", [0.0, 0.1, 0.25, 0.9])
@pytest.mark.parametrize("shape", [(1,), (3, 7), (2, 33, 33, 5)])
def test_dropout(any_backend, shape, p, first):
    (x,) = draw(0, shape)
    u = backend.to_numpy(reference.random_uniform(np, x.size, 5, 6, 7, first)).reshape(shape)
    y = backend.kernels.dropout(*device(x), p, 5, 6, 7, first)
    check(y, np.where(u >= np.float32(p), x / (1 - p), 0))


@few_examples
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
def test_linear_of_concatenated_parts(any_backend, rows, parts, C_out):
    C_in = sum(parts)
    w, b, gy, *xs = draw(0, (C_in, C_out), (C_out,), (*rows, C_out), *[(*rows, c) for c in parts])
    x = np.concatenate(xs, axis=-1).astype(float)
    on_device = tuple(device(*xs))
    check(backend.kernels.linear(on_device, *device(w, b)), x @ w + b)
    gxs, gw, gb = backend.kernels.linear_backward(*device(gy), on_device, *device(w))
    gx = gy.astype(float) @ w.T
    starts = np.cumsum(parts)[:-1]
    for part, expected in zip(gxs, np.split(gx, starts, axis=-1), strict=True):
        check(part, expected)
    flat = gy.reshape(-1, C_out)
    check(gw, x.reshape(-1, C_in).T @ flat)
    check(gb, flat.sum(axis=0))
