"""The rung of the convolution that uses tensor cores (tensor.cuh), in the emulator."""

from functools import cache

import numpy as np
import pytest
from cuda_checks import check, draw, needs_compiler
from hypothesis import given, settings
from hypothesis import strategies as st
from roundings import NARROW, to_bfloat16, to_half, to_tf32

from minddpm.kernels import precision as format_in_use
from minddpm.kernels import reference
from minddpm.kernels.cuda import ladder
from minddpm.kernels.cuda.ladder import Sizes
from minddpm.kernels.cuda.launch import FOLDER
from minddpm.kernels.emulator import Library, cupy_on_cpu, device_array, device_empty

pytestmark = needs_compiler
NULL = np.uint64(0)

ROUNDING = {
    "half": to_half, "half T4": to_half, "BF16": to_bfloat16, "TF32": to_tf32,
    "TF32 NARROW": to_tf32,
}  # fmt: skip
MACROS = {"half": "HALF", "T4": "__CUDA_ARCH__ 750", "NARROW": "COLUMNS 32"}


@cache
def conv6(name, *defines):
    file = FOLDER / ladder.RUNGS["6 tensor cores, half"].kernel(name)[0]
    defines = "".join(f"#define {define}\n" for define in defines)
    return Library(f"{defines}#line 1\n{file.read_text()}", file)


def launch(precision, name, sizes, rows, columns, *arguments, order=0):
    """Launch a kernel with the sizes of a convolution (Sizes) as the last arguments."""
    tile = (128, 32) if "NARROW" in precision else (64, 64)
    grid = (-(-rows // tile[0]), -(-columns // tile[1]))
    threads = 64 if precision == "TF32 NARROW" else 128
    vector = int(sizes.C % 4 == sizes.C_out % 4 == 0)
    arguments = (*arguments, *map(np.int32, (*sizes, vector)))
    defines = [MACROS.get(word, word) for word in precision.split()]
    defines += [f"STRIDE {sizes.stride}"] if sizes.stride != 1 else []
    conv6(name, *defines).launch(name, grid, (threads,), arguments, order=order)


@pytest.mark.parametrize("precision", ROUNDING)
@settings(max_examples=20, deadline=None)
@given(
    N=st.integers(1, 2), H=st.sampled_from([1, 7, 14, 33]), W=st.sampled_from([1, 7, 14]),
    C=st.sampled_from([1, 3, 17, 20, 66]), K=st.sampled_from([1, 3, 8, 17, 66]),
    KH=st.sampled_from([1, 3]), KW=st.sampled_from([1, 2, 3]), stride=st.sampled_from([1, 2]),
    pad=st.tuples(*[st.integers(0, 2)] * 4), with_bias=st.booleans(), order=st.integers(0, 2),
)  # fmt: skip
def test_conv2d(precision, N, H, W, C, K, KH, KW, stride, pad, with_bias, order):
    """Compared with float64, the inputs rounded as the tensor cores read them."""
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < KH or W + sum(padding[1]) < KW:
        return
    x, w, b = draw(0, (N, H, W, C), (KH, KW, C, K), K)
    rounded = ROUNDING[precision]
    exact = rounded(x).astype(float), rounded(w).astype(float)
    expected = reference.conv2d(*exact, b if with_bias else None, stride, padding)
    (gy,) = draw(1, expected.shape)
    gradients = reference.conv2d_backward(rounded(gy).astype(float), *exact, stride, padding)

    s = Sizes.of((x,), w.shape, stride, padding)
    image, weights, gradient = map(device_array, (x, w, gy))
    x_arguments = (image, NULL, np.int32(C))
    y, gx, gw = map(device_empty, (expected.shape, x.shape, w.shape))
    more = (device_array(b) if with_bias else NULL, NULL, NULL)
    launch(precision, "conv2d", s, s.pixels, K, *x_arguments, weights, *more, y, order=order)
    check(y, expected)
    backward = (gradient, weights, NULL, NULL, NULL, gx, NULL, np.int32(C))
    launch(precision, "conv2d_gradient_x", s, N * H * W, C, *backward, order=order)
    check(gx, gradients[0])
    launch(precision, "conv2d_gradient_w", s, s.window, K, gradient, *x_arguments, gw, order=order)
    check(gw, gradients[1])


@pytest.mark.parametrize("precision", ROUNDING)
def test_inputs_are_rounded_to_the_range_of_the_format(precision):
    x = np.array([1e5, 65504, 1e-5, 1e-8], np.float32)
    np.testing.assert_array_equal(multiplied_by_one(precision, x), ROUNDING[precision](x))


def multiplied_by_one(precision, x):
    y, one = device_empty(x.size), device_array(np.ones(1, np.float32))
    s = Sizes.linear((x.reshape(-1, 1),), (1, 1))
    arguments = (device_array(x), NULL, np.int32(1), one, NULL, NULL, NULL, y)
    launch(precision, "conv2d", s, x.size, 1, *arguments)
    return y


def test_rounding_to_tf32():
    """Ties, a carry into the exponent, and the NaN that a GPU computes, whose bits are all set."""
    halfway, last_bit = np.float32(1 + 2.0**-11), np.float32(2.0**-10)
    below, most = np.nextafter(halfway, np.float32(0)), np.finfo(np.float32).max
    special = [most, np.inf, -np.inf, -halfway, 2 - 2.0**-23, 2.0**-149, np.nan]
    x = np.array([halfway, below, halfway + last_bit, *special, 0, 0], np.float32)
    x.view(np.uint32)[-2:] = 0x7FFFFFFF, 0xFFFFFFFF
    expected = [1 + last_bit, 1, 1 + 2 * last_bit, np.inf, np.inf, -np.inf, -1 - last_bit, 2, 0]
    y = multiplied_by_one("TF32", x)
    np.testing.assert_array_equal(y, [*expected, *[np.nan] * 3])
    np.testing.assert_array_equal(to_tf32(x[:-3]), expected)

    bits = np.random.default_rng(0).integers(1 << 23, 254 << 23, 4000, np.uint32)
    x = np.concatenate([bits.view(np.float32), -bits.view(np.float32)])  # of every size
    np.testing.assert_array_equal(multiplied_by_one("TF32", x), to_tf32(x))


@pytest.mark.parametrize(
    ("precision", "narrow"),
    [
        ("half", NARROW["half"]), ("half NARROW", NARROW["half"]), ("half T4", NARROW["half"]),
        ("BF16", NARROW["bf16"]),
    ],
)  # fmt: skip
@pytest.mark.parametrize("C", [20, 24, 17])  # read as vectors if float32, always, one by one
@pytest.mark.parametrize("parts", [1, 2])
def test_x_may_be_stored_as_the_cores_read_it(precision, narrow, C, parts):
    """No bit of the results changes."""
    K, C1 = 12, C if parts == 1 else 8
    x, w, gy = draw(0, (2, 7, 5, C), (3, 3, C, K), (2, 7, 5, K))
    s = Sizes.of((x,), w.shape, 1, ((1, 1), (1, 1)))
    weights, gradient, results = device_array(w), device_array(gy), []
    for how, stored in ((precision, lambda x: x), (f"{precision} STORED", narrow)):
        x_parts = [device_array(stored(np.ascontiguousarray(x))) for x in np.split(x, [C1], axis=3)]
        x_arguments = (x_parts[0], x_parts[1] if parts == 2 else NULL, np.int32(C1))
        y, gw = device_empty(gy.shape), device_empty(w.shape)
        launch(how, "conv2d", s, s.pixels, K, *x_arguments, weights, NULL, NULL, NULL, y)
        launch(how, "conv2d_gradient_w", s, s.window, K, gradient, *x_arguments, gw)
        results.append((y, gw))
    for float32, stored in zip(*results, strict=True):
        np.testing.assert_array_equal(stored, float32)


def test_a_backward_of_32_columns_takes_tiles_of_64(emulated_kernels, monkeypatch):
    """The forward, of one product, takes tiles of 32."""
    monkeypatch.setattr(format_in_use, "_precision", "fp16")
    options = []
    monkeypatch.setattr(ladder, "launch", lambda *a, **named: options.append(named["options"]))
    x, w = (cupy_on_cpu.zeros(n, "float32") for n in ((2, 7, 7, 32), (3, 3, 32, 32)))
    s = Sizes.of((x,), w.shape, 1, ((1, 1), (1, 1)))
    y = x.copy()
    ladder.forward(s, (x,), w, None, y)
    ladder.backward(s, y, (x,), w)
    assert options == [("-DCOLUMNS=32",), ()]
