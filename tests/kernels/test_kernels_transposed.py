"""Transposed convolution kernels against the naive loops and float64, on awkward sizes."""

import numpy as np
import pytest
from builders import draw
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import CHANNELS, WINOGRAD, check, device, few_examples, in_float64

import naive
from minddpm import backend

# (KH, KW, stride, padding): DCGAN's, one for each CPU kernel, and awkward ones.
TRANSPOSED = st.one_of(
    st.just((4, 4, 2, ((1, 1), (1, 1)))),
    st.just((3, 3, 1, ((1, 1), (2, 0)))),
    st.just((1, 1, 1, ((0, 0), (0, 0)))),
    st.tuples(
        st.integers(1, 4), st.integers(1, 3), st.integers(1, 3),
        st.tuples(*[st.tuples(*[st.integers(0, 2)] * 2)] * 2),
    ),
)  # fmt: skip


@few_examples
@given(
    N=st.integers(1, 3), H=st.sampled_from([1, 2, 5, 7]), W=st.sampled_from([1, 3, 8]),
    C_in=CHANNELS, C_out=CHANNELS, geometry=TRANSPOSED, seed=st.integers(0, 99),
)  # fmt: skip
def test_conv_transpose2d(any_backend, N, H, W, C_in, C_out, geometry, seed):
    KH, KW, stride, padding = geometry
    x, w, b = draw(seed, (N, H, W, C_in), (KH, KW, C_out, C_in), (C_out,))
    y = naive.conv_transpose2d(x, w, b, stride, padding)
    if 0 in y.shape:
        return  # the padding removes every pixel: the autodiff raises InputError
    check(backend.kernels.conv_transpose2d(*device(x, w, b), stride, padding), y, WINOGRAD)
    # the defining property: <v, conv_transpose2d(x)> = <conv2d(v), x>
    (v,) = draw(seed + 1, y.shape)
    left, right = (v * (y - b)).sum(), (naive.conv2d(v, w, 0, stride, padding) * x).sum()
    assert abs(left - right) <= 1e-10 * np.sqrt((v**2).sum() * (y**2).sum())


# On the CPU these use rung 3, Winograd on sub-pixels, and a matrix product.
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


@pytest.mark.parametrize(
    ("x_shape", "C_out", "kernel_size", "stride", "pad"), SHAPES_OF_A_GENERATOR
)
def test_conv_transpose2d_of_a_generator(any_backend, x_shape, C_out, kernel_size, stride, pad):
    padding = ((pad, pad), (pad, pad))
    x, w, b = draw(0, x_shape, (kernel_size, kernel_size, C_out, x_shape[3]), (C_out,))
    y = in_float64("conv_transpose2d", x, w, b, stride, padding)
    check(backend.kernels.conv_transpose2d(*device(x, w, b), stride, padding), y, WINOGRAD)
    gy, partial = draw(1, y.shape, x.shape)
    arrays = device(gy, x, w)
    exact = in_float64("conv_transpose2d_backward", gy, x, w, stride, padding)
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


@few_examples
@given(
    N=st.integers(1, 3), H=st.sampled_from([1, 2, 5, 7]), W=st.sampled_from([1, 3, 8]),
    C_in=CHANNELS, C_out=CHANNELS, geometry=TRANSPOSED, seed=st.integers(0, 99),
)  # fmt: skip
def test_conv_transpose2d_backward_is_the_transpose(
    any_backend, N, H, W, C_in, C_out, geometry, seed
):  # fmt: skip
    """It is linear in x, w and b: see test_conv2d_backward_is_the_transpose in the other file."""
    KH, KW, stride, padding = geometry
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
