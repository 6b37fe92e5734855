"""Winograd's drivers, which choose each other by size: here each is made to take any size."""

import importlib

import numpy as np
import pytest

import minddpm
from minddpm.kernels import cpu, reference
from minddpm.kernels.cpu.ladder import choose as ladder
from minddpm.kernels.cpu.ladder import winograd_weights

layer = importlib.import_module("minddpm.kernels.cpu.ladder.layer")
TOLERANCE = 3e-5  # of F(4x4), see test_kernels.py


@pytest.fixture(params=[16 << 20, 1], ids=["all at once", "one by one"])
def pictures_together(request, monkeypatch):
    """All threads work on the same pictures, however few weights there are."""
    minddpm.set_backend("numba")
    layer._layer.cache_clear()
    monkeypatch.setattr(layer, "MANY_WEIGHTS", 0)
    monkeypatch.setattr(layer, "SHARED", request.param)
    yield
    layer._layer.cache_clear()


def check(result, expected):
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= TOLERANCE * max(1.0, np.abs(expected).max())


def exact(function, *arguments):
    def wide(x):
        if isinstance(x, tuple):
            return tuple(map(wide, x))
        return x.astype(float) if isinstance(x, np.ndarray) else x

    return getattr(reference, function)(*map(wide, arguments))


def draw(*shapes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


@pytest.mark.parametrize("parts", [(32,), (64, 32)])
@pytest.mark.parametrize("K", [8, 40])
@pytest.mark.parametrize(("N", "H", "W"), [(1, 5, 7), (3, 4, 4), (5, 9, 14)])
def test_norm_silu_conv2d_of_shared_pictures(pictures_together, N, H, W, parts, K):
    C = sum(parts)
    nw, nb, w, b, shift, extra, gy, *xs = draw(
        (C,), (C,), (3, 3, C, K), (K,), (N, K), *[(N, H, W, K)] * 2, *[(N, H, W, c) for c in parts]
    )
    w /= np.float32(np.sqrt(9 * C))
    forward = (tuple(xs), nw, nb, 4, 1e-5, w, b, shift, extra)
    (y, kept), expected = cpu.norm_silu_conv2d(*forward), exact("norm_silu_conv2d", *forward)
    for a, wanted in zip((y, *kept), (expected[0], *expected[1]), strict=True):
        check(a, wanted)
    backward = (gy, tuple(xs), nw, nb, kept, 4, w)
    gxs, *rest = cpu.norm_silu_conv2d_backward(*backward)
    exact_gxs, *exact_rest = exact("norm_silu_conv2d_backward", *backward)
    for a, wanted in zip((*gxs, *rest), (*exact_gxs, *exact_rest), strict=True):
        check(a, wanted)


@pytest.mark.parametrize("rung", ["4 Winograd F(2x2)", "5 Winograd F(4x4)"])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((2, 0), (1, 2))])
def test_conv2d_of_shared_pictures(pictures_together, rung, padding):
    x, w, b = draw((4, 9, 6, 20), (3, 3, 20, 33), (33,))
    y = exact("conv2d", x, w, b, 1, padding)
    check(ladder.LADDER[rung].forward(x, w, b, 1, padding), y)
    (gy,) = draw(y.shape)
    result = ladder.LADDER[rung].backward(gy, x, w, 1, padding)
    expected = exact("conv2d_backward", gy, x, w, 1, padding)
    for a, wanted in zip(result, expected, strict=True):
        check(a, wanted)
    assert ladder.LADDER[rung].backward(gy, x, w, 1, padding, need_gx=False)[0] is None


@pytest.mark.parametrize("M", [2, 4])
@pytest.mark.parametrize(("C", "K"), [(1, 1), (16, 14), (300, 46), (33, 64)])
def test_turned_weights_are_the_weights_with_channels_exchanged(M, C, K):
    (w,) = draw((3, 3, C, K))
    turned = winograd_weights.transform_turned_weights(w, M)
    plain = winograd_weights.transform_weights(np.ascontiguousarray(w.swapaxes(2, 3)), M)
    lines, columns = (u.transpose(1, 2, 0, 3).reshape((M + 2) ** 2, -1, u.shape[0] * u.shape[3])
                      for u in (turned, plain))  # fmt: skip
    np.testing.assert_array_equal(lines[..., :C], columns[..., :C])


def test_few_tiles_take_the_smaller_transform_and_many_weights_are_shared():
    assert ladder.fused_tile((1, 14, 14, 64), (3, 3, 64, 64)) == 2
    assert ladder.fused_tile((64, 14, 14, 64), (3, 3, 64, 64)) == 4
    x, (w, few) = np.empty((8, 8, 8, 256), np.float32), ((3, 3, 256, 256), (3, 3, 256, 32))
    assert layer.layer((x,), w, ((1, 1), (1, 1)), 4).together
    assert not layer.layer((x,), few, ((1, 1), (1, 1)), 4).together


def test_no_pictures_at_all():
    minddpm.set_backend("numba")
    x, gy, w = (np.zeros(s, np.float32) for s in ((0, 8, 8, 32), (0, 8, 8, 40), (3, 3, 32, 40)))
    b = np.zeros(40, np.float32)
    assert cpu.conv2d(x, w, b, 1, ((1, 1), (1, 1))).shape == gy.shape
    gx, gw, gb = cpu.conv2d_backward(gy, x, w, 1, ((1, 1), (1, 1)))
    assert gx.shape == x.shape
    assert not gw.any()
    assert not gb.any()
