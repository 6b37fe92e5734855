"""Convolution kernels against the naive loops and float64, on awkward sizes."""

import numpy as np
import pytest
from builders import draw
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import CHANNELS, SIZES, WINOGRAD, check, device, few_examples, in_float64

import naive
from minddpm import backend
from minddpm.kernels import reference
from minddpm.kernels.cpu.ladder.choose import LADDER


def test_conv2d_whose_windows_lie_before_the_image(any_backend):
    """Only the bias is left, whatever lies before x in memory."""
    memory, w, b = draw(0, (42,), (1, 1, 1, 31), (31,))
    x, padding = memory[40:].reshape(1, 2, 1, 1), ((0, 0), (2, 0))
    check(backend.kernels.conv2d(*device(x, w, b), 3, padding), b.reshape(1, 1, 1, 31))


@few_examples
@given(
    N=st.integers(1, 3), H=SIZES, W=SIZES, C_in=CHANNELS, C_out=CHANNELS,
    KH=st.sampled_from([1, 3]), KW=st.sampled_from([1, 2, 3]), stride=st.sampled_from([1, 2, 3]),
    pad=st.tuples(*[st.integers(0, 2)] * 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_conv2d(any_backend, N, H, W, C_in, C_out, KH, KW, stride, pad, seed):
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < KH or W + sum(padding[1]) < KW:
        return  # no output pixel: the autodiff conv2d raises InputError
    x, w, b = draw(seed, (N, H, W, C_in), (KH, KW, C_in, C_out), (C_out,))
    y = backend.kernels.conv2d(*device(x, w, b), stride, padding)
    check(y, naive.conv2d(x, w, b, stride, padding), WINOGRAD)


@few_examples
@given(
    N=st.integers(1, 3), H=st.integers(1, 9), W=st.integers(1, 9), C_in=CHANNELS, C_out=CHANNELS,
    stride=st.sampled_from([1, 2]), pad=st.tuples(*[st.integers(0, 2)] * 4),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_every_rung_of_the_ladder(N, H, W, C_in, C_out, stride, pad, seed):
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < 3 or W + sum(padding[1]) < 3:
        return
    x, w, b = draw(seed, (N, H, W, C_in), (3, 3, C_in, C_out), (C_out,))
    y = in_float64("conv2d", x, w, b, stride, padding)
    (gy,) = draw(seed + 1, y.shape)
    gradients = in_float64("conv2d_backward", gy, x, w, stride, padding)
    for name, rung in LADDER.items():
        if rung.fits(x.shape, w.shape, stride, padding):
            tolerance = WINOGRAD if "F(4x4)" in name else 3e-6
            check(rung.forward(x, w, b, stride, padding), y, tolerance)
            results = rung.backward(gy, x, w, stride, padding)
            for gradient, expected in zip(results, gradients, strict=True):
                check(gradient, expected, tolerance)


ANY_SIZE = {
    "N": st.integers(1, 5), "H": st.integers(1, 33), "W": st.integers(1, 33),
    "C_in": st.integers(1, 130), "C_out": st.integers(1, 130), "seed": st.integers(0, 99),
}  # fmt: skip


@few_examples
@given(
    **ANY_SIZE, kernel_size=st.sampled_from([1, 2, 3, 3, 3]), stride=st.sampled_from([1, 1, 2, 3]),
    pad=st.tuples(*[st.integers(0, 2)] * 4),
)  # fmt: skip
def test_conv2d_of_any_size_against_float64(
    any_backend, N, H, W, C_in, C_out, seed, kernel_size, stride, pad
):
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < kernel_size or W + sum(padding[1]) < kernel_size:
        return
    x, w, b = draw(seed, (N, H, W, C_in), (kernel_size, kernel_size, C_in, C_out), (C_out,))
    y = in_float64("conv2d", x, w, b, stride, padding)
    check(backend.kernels.conv2d(*device(x, w, b), stride, padding), y, WINOGRAD)
    (gy,) = draw(seed + 1, y.shape)
    results = backend.kernels.conv2d_backward(*device(gy, x, w), stride, padding)
    for gradient, expected in zip(
        results, in_float64("conv2d_backward", gy, x, w, stride, padding), strict=True
    ):
        check(gradient, expected, WINOGRAD)


@few_examples
@given(
    N=st.integers(1, 3), H=SIZES, W=SIZES, C_in=CHANNELS, C_out=CHANNELS,
    kernel_size=st.sampled_from([1, 3]), stride=st.sampled_from([1, 2, 3]),
    pad=st.tuples(*[st.integers(0, 2)] * 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_conv2d_backward_is_the_transpose(
    any_backend, N, H, W, C_in, C_out, kernel_size, stride, pad, seed
):
    """conv2d is linear in x, w and b, so three equal inner products determine its backward:

    <gy, conv(dx, w)> = <gx, dx>;  <gy, conv(x, dw)> = <gw, dw>;  sum gy db = <gb, db>
    """
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < kernel_size or W + sum(padding[1]) < kernel_size:
        return
    x, w, dx, dw, db = draw(
        seed,
        (N, H, W, C_in),
        (kernel_size, kernel_size, C_in, C_out),
        (N, H, W, C_in),
        (kernel_size, kernel_size, C_in, C_out),
        (C_out,),
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


def test_conv2d_backward_skips_gx_if_it_is_not_needed(any_backend):
    x, w, gy = device(*draw(0, (1, 4, 4, 2), (3, 3, 2, 2), (1, 2, 2, 2)))
    gx, gw, _ = backend.kernels.conv2d_backward(gy, x, w, 1, ((0, 0), (0, 0)), need_gx=False)
    assert gx is None
    assert gw.shape == w.shape


@few_examples
@given(
    N=st.integers(1, 3), H=SIZES, W=SIZES, C_in=CHANNELS, C_out=CHANNELS, seed=st.integers(0, 99)
)
def test_upsample_conv2d(any_backend, N, H, W, C_in, C_out, seed):
    x, w, b, gy = draw(
        seed, (N, H, W, C_in), (3, 3, C_in, C_out), (C_out,), (N, 2 * H, 2 * W, C_out)
    )
    w /= np.sqrt(9 * C_in).astype(np.float32)
    up = naive.upsample_nearest(x)
    y = naive.conv2d(up, w, b, 1, ((1, 1), (1, 1)))
    check(backend.kernels.upsample_conv2d(*device(x, w, b)), y, WINOGRAD)
    gx, gw, gb = backend.kernels.upsample_conv2d_backward(*device(gy, x, w))
    exact = reference.upsample_conv2d_backward(*(a.astype(float) for a in (gy, x, w)))
    for gradient, expected in zip((gx, gw, gb), exact, strict=True):
        check(gradient, expected, tolerance=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("C_in", "C_out", "kernel_size"), [(32, 32, 3), (5, 3, 3), (32, 1, 3), (64, 40, 1)]
)
def test_a_non_finite_pixel_reaches_every_output_that_depends_on_it(
    any_backend, value, C_in, C_out, kernel_size
):
    x, w, b = draw(0, (2, 9, 9, C_in), (kernel_size, kernel_size, C_in, C_out), (C_out,))
    x[1, 4, 4, C_in // 2] = value
    reach = kernel_size // 2
    padding = ((reach, reach), (reach, reach))
    y = backend.to_numpy(backend.kernels.conv2d(*device(x, w, b), 1, padding))
    assert np.isfinite(y[0]).all()
    affected = y[1, 4 - reach : 5 + reach, 4 - reach : 5 + reach]
    assert not np.isfinite(affected).any()
