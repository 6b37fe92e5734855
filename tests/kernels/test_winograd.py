"""Winograd's drivers, normally chosen by size: here each computes layers of any size."""

import numpy as np
import pytest
from builders import draw
from kernel_checks import WINOGRAD, check, flat, in_float64

import minddpm
from minddpm.kernels import cpu
from minddpm.kernels.cpu.ladder import layer, winograd_weights
from minddpm.kernels.cpu.ladder.choose import LADDER, fused_tile


@pytest.fixture(params=[16 << 20, 1], ids=["all at once", "one by one"])
def images_together(request, monkeypatch):
    """Let all threads work on the same images, even for layers with few weights."""
    minddpm.set_backend("numba")
    layer._layer.cache_clear()
    monkeypatch.setattr(layer, "MANY_WEIGHTS", 0)
    monkeypatch.setattr(layer, "SHARED", request.param)
    yield
    layer._layer.cache_clear()


@pytest.mark.parametrize("parts", [(32,), (64, 32)])
@pytest.mark.parametrize("C_out", [8, 40])
@pytest.mark.parametrize(("N", "H", "W"), [(1, 5, 7), (3, 4, 4), (5, 9, 14)])
def test_norm_silu_conv2d_of_shared_images(images_together, N, H, W, parts, C_out):
    C_in = sum(parts)
    nw, nb, w, b, shift, extra, gy, *xs = draw(
        0, (C_in,), (C_in,), (3, 3, C_in, C_out), (C_out,), (N, C_out), *[(N, H, W, C_out)] * 2,
        *[(N, H, W, c) for c in parts],
    )  # fmt: skip
    w /= np.float32(np.sqrt(9 * C_in))
    forward = (tuple(xs), nw, nb, 4, 1e-5, w, b, shift, extra)
    (y, saved), expected = cpu.norm_silu_conv2d(*forward), in_float64("norm_silu_conv2d", *forward)
    for a, wanted in zip((y, *saved), (expected[0], *expected[1]), strict=True):
        check(a, wanted, WINOGRAD)
    backward = (gy, tuple(xs), nw, nb, saved, 4, w)
    gradients = cpu.norm_silu_conv2d_backward(*backward)
    exact = in_float64("norm_silu_conv2d_backward", *backward)
    for a, wanted in zip(flat(gradients), flat(exact), strict=True):
        check(a, wanted, WINOGRAD)


@pytest.mark.parametrize("rung", ["4 Winograd F(2x2)", "5 Winograd F(4x4)"])
@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((2, 0), (1, 2))])
def test_conv2d_of_shared_images(images_together, rung, padding):
    x, w, b = draw(0, (4, 9, 6, 20), (3, 3, 20, 33), (33,))
    y = in_float64("conv2d", x, w, b, 1, padding)
    check(LADDER[rung].forward(x, w, b, 1, padding), y, WINOGRAD)
    (gy,) = draw(0, y.shape)
    result = LADDER[rung].backward(gy, x, w, 1, padding)
    expected = in_float64("conv2d_backward", gy, x, w, 1, padding)
    for a, wanted in zip(result, expected, strict=True):
        check(a, wanted, WINOGRAD)
    assert LADDER[rung].backward(gy, x, w, 1, padding, need_gx=False)[0] is None


@pytest.mark.parametrize("M", [2, 4])
@pytest.mark.parametrize(("C_in", "C_out"), [(1, 1), (16, 14), (300, 46), (33, 64)])
def test_turned_weights_are_the_weights_with_channels_swapped(M, C_in, C_out):
    (w,) = draw(0, (3, 3, C_in, C_out))
    turned = winograd_weights.transform_transposed_weights(w, M)
    plain = winograd_weights.transform_weights(np.ascontiguousarray(w.swapaxes(2, 3)), M)
    lines, columns = (u.transpose(1, 2, 0, 3).reshape((M + 2) ** 2, -1, u.shape[0] * u.shape[3])
                      for u in (turned, plain))  # fmt: skip
    np.testing.assert_array_equal(lines[..., :C_in], columns[..., :C_in])


def test_few_tiles_use_the_smaller_transform_and_many_weights_are_shared():
    assert fused_tile((1, 14, 14, 64), (3, 3, 64, 64)) == 2
    assert fused_tile((64, 14, 14, 64), (3, 3, 64, 64)) == 4
    x, (w, small) = np.empty((8, 8, 8, 256), np.float32), ((3, 3, 256, 256), (3, 3, 256, 32))
    assert layer.layer((x,), w, ((1, 1), (1, 1)), 4).together
    assert not layer.layer((x,), small, ((1, 1), (1, 1)), 4).together


def test_a_batch_without_images():
    minddpm.set_backend("numba")
    x, gy, w = (np.zeros(s, np.float32) for s in ((0, 8, 8, 32), (0, 8, 8, 40), (3, 3, 32, 40)))
    b = np.zeros(40, np.float32)
    assert cpu.conv2d(x, w, b, 1, ((1, 1), (1, 1))).shape == gy.shape
    gx, gw, gb = cpu.conv2d_backward(gy, x, w, 1, ((1, 1), (1, 1)))
    assert gx.shape == x.shape
    assert not gw.any()
    assert not gb.any()
