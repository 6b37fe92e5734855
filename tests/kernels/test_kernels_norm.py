"""Normalisation kernels, alone and fused with SiLU and a convolution, against the naive loops."""

import numpy as np
from builders import draw
from hypothesis import given
from hypothesis import strategies as st
from kernel_checks import SIZES, WINOGRAD, check, device, few_examples, flat

import naive
from minddpm import backend
from minddpm.kernels import reference


@few_examples
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


def test_group_norm_with_a_mean_far_above_the_standard_deviation(any_backend):
    """E[x^2] - E[x]^2 in float32 would be rounding error only."""
    (x,) = draw(0, (2, 7, 7, 8))
    x += 1000
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    y = backend.kernels.group_norm(*device(x, ones, zeros), 2, 1e-5)[0]
    check(y, naive.group_norm(x, ones, zeros, 2, 1e-5), tolerance=1e-3)  # rounding x: 6e-5


def test_group_norm_with_an_outlier_in_the_first_pixel(any_backend):
    """A one-pass variance around the first pixel would cancel."""
    (x,) = draw(0, (1, 14, 14, 32))
    x = 1 + x / 100
    x[:, 0, 0] = -50
    ones, zeros = np.ones(32, np.float32), np.zeros(32, np.float32)
    y = backend.kernels.group_norm(*device(x, ones, zeros), 4, 1e-5)[0]
    check(y, naive.group_norm(x, ones, zeros, 4, 1e-5))


@few_examples
@given(
    N=st.integers(1, 5), H=SIZES, W=SIZES, parts=st.sampled_from([(32,), (64, 32), (5,), (4, 12)]),
    groups=st.sampled_from([1, 2, 4]), C_out=st.sampled_from([1, 5, 32, 40]),
    per_image=st.booleans(), extra=st.sampled_from(["none", "image", "layer"]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_norm_silu_conv2d(any_backend, N, H, W, parts, groups, C_out, per_image, extra, seed):
    C_in = sum(parts)
    if C_in % groups:
        return
    weight, bias, w, b, shift, image, gy, w_2, b_2, *xs = draw(
        seed, (C_in,), (C_in,), (3, 3, C_in, C_out), (C_out,), (N, C_out),
        *[(N, H, W, C_out)] * 2, (C_in, C_out), (C_out,), *[(N, H, W, c) for c in parts],
    )  # fmt: skip
    w /= np.sqrt(9 * C_in).astype(np.float32)
    if H * W * C_in // groups > 1:  # one number minus its mean is 0 up to rounding of either sign
        x = np.concatenate(xs, axis=-1)
        h = naive.silu(naive.group_norm(x, weight, bias, groups, 1e-5))
        y = naive.conv2d(h, w, 0, 1, ((1, 1), (1, 1)))
        y += b + (shift[:, None, None, :] if per_image else 0)
        y += {"none": 0, "image": image, "layer": x @ w_2 + b_2}[extra]
        on_device = tuple(device(*xs))
        of_layer = (on_device, *device(w_2), ()) if extra == "layer" else ()
        added = {"none": None, "image": device(image)[0], "layer": (*of_layer[:2], *device(b_2))}
        arrays = (on_device, *device(weight, bias), groups, 1e-5, *device(w, b))
        result, saved = backend.kernels.norm_silu_conv2d(
            *arrays,
            *(device(shift) if per_image else [None]),
            added[extra],
        )
        check(result, y, WINOGRAD)
        gradients = backend.kernels.norm_silu_conv2d_backward(
            *device(gy), *arrays[:3], saved, groups, *device(w), (), of_layer
        )
        exact = reference.norm_silu_conv2d_backward(
            gy.astype(float), tuple(a.astype(float) for a in xs), weight.astype(float), bias,
            tuple(backend.to_numpy(a).astype(float) for a in saved[:2]), groups, w.astype(float),
            (), of_layer and (tuple(a.astype(float) for a in xs), w_2.astype(float), ()),
        )  # fmt: skip
        for gradient, expected in zip(flat(gradients), flat(exact), strict=True):
            check(gradient, expected, tolerance=1e-4)
