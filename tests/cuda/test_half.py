"""Half and bfloat16 in the emulator: conversions and arithmetic."""

from functools import cache

import numpy as np
import pytest
from cuda_checks import draw, needs_compiler
from roundings import to_half

from minddpm.kernels.emulator import Library, device_array, device_empty

pytestmark = needs_compiler

# --- half ----------------------------------------------------------------------------------------

HALF = """#include <cuda_fp16.h>
extern "C" __global__ void widen(const half* x, float* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = __half2float(x[i]);
}
extern "C" __global__ void narrow(const float* x, half* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = __float2half(x[i]);
}
extern "C" __global__ void arithmetic(const half* a, const half* b, half* out, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        out[i] = a[i] + b[i];
        out[n + i] = a[i] - b[i];
        out[2 * n + i] = a[i] * b[i];
        out[3 * n + i] = a[i] / b[i];
    }
}
extern "C" __global__ void two(const float* x, float* y) {
    int i = 2 * threadIdx.x;
    half2 v = __floats2half2_rn(x[i], x[i + 1]);
    float2 result = __half22float2(v * v + v - __halves2half2(v.y, v.x));
    y[i] = result.x, y[i + 1] = result.y;
}
extern "C" __global__ void unwritten(float* y) {
    __shared__ half memory[64];
    y[threadIdx.x] = memory[threadIdx.x];
}
"""

EVERY_HALF = np.arange(1 << 16).astype(np.uint16).view(np.float16)


@cache
def half_library():
    return Library(HALF)


def run(name, *arguments, threads=32):
    half_library().launch(name, (1,), (threads,), arguments)


def test_every_half_as_float():
    y = device_empty(1 << 16)
    run("widen", device_array(EVERY_HALF), y, np.int32(y.size))
    np.testing.assert_array_equal(y, EVERY_HALF.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(y), np.signbit(EVERY_HALF))  # for -0 as well


def test_rounding_to_half():
    """At the midpoint between each half and the next, and at the floats on both sides of it."""
    halves = EVERY_HALF[:0x7C01].astype(np.float32)
    halves[-1] = 65536  # the number after 65504, if there were no infinity
    ties = (halves[1:] + halves[:-1]) / 2
    x = np.concatenate([halves, ties, np.nextafter(ties, 0), np.nextafter(ties, 1e9)])
    more = [1e-30, 1e-45, 3e38, np.inf, np.nan]
    x = np.concatenate([x, np.array(more, np.float32)])
    x = np.concatenate([x, -x])
    y = device_empty(x.shape, np.float16)
    run("narrow", device_array(x), y, np.int32(x.size))
    expected = to_half(x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y)[x == x], np.signbit(x)[x == x])


def test_arithmetic_of_halves_is_rounded_to_half():
    rng = np.random.default_rng(0)
    a, b = (rng.permutation(EVERY_HALF[np.isfinite(EVERY_HALF)]) for _ in range(2))
    out = device_empty((4, a.size), np.float16)
    run("arithmetic", device_array(a), device_array(b), out, np.int32(a.size))
    with np.errstate(all="ignore"):
        exact = [f(a.astype(float), b.astype(float)) for f in (np.add, np.subtract, np.multiply)]
        expected = np.stack([*exact, a.astype(float) / b]).astype(np.float16)
    np.testing.assert_array_equal(out, expected)


def test_vectors_of_halves():
    (x,) = draw(0, 64)
    y = device_empty(64)
    run("two", device_array(x), y)
    v = x.astype(np.float16)
    expected = v * v + v - v.reshape(-1, 2)[:, ::-1].reshape(-1)
    np.testing.assert_array_equal(y, expected.astype(np.float32))


def test_a_half_that_was_not_written_is_nan():
    assert np.isnan(device_empty(7, np.float16)).all()
    y = device_empty(64)
    run("unwritten", y, threads=64)
    assert np.isnan(y).all()


def test_half_is_unknown_without_its_header():
    with pytest.raises(RuntimeError, match="half"):
        Library('extern "C" __global__ void f(half* x) {}')


# --- bfloat16 ------------------------------------------------------------------------------------

BFLOAT16 = """#include <cuda_bf16.h>
extern "C" __global__ void widen(const __nv_bfloat16* x, float* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = __bfloat162float(x[i]);
}
extern "C" __global__ void narrow(const float* x, __nv_bfloat16* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = __float2bfloat16(x[i]);
}
"""


def test_bfloat16():
    """Each as a float, and rounding at the midpoint between each and the next."""
    library, bits = Library(BFLOAT16), np.arange(1 << 16).astype(np.uint16)
    widened = device_empty(bits.size)
    library.launch("widen", (1,), (32,), (device_array(bits), widened, np.int32(bits.size)))
    np.testing.assert_array_equal(widened.view(np.uint32), bits.astype(np.uint32) << 16)

    finite = np.array(widened[:0x7F80]).astype(float)  # all below infinity
    ties = (finite[1:] + finite[:-1]) / 2
    even = np.where(bits[: ties.size] % 2, finite[1:], finite[:-1])
    tied = ties.astype(np.float32)
    assert (tied == ties).all()
    below, above = (np.nextafter(tied, np.float32(to)) for to in (0, 9e37))
    x = np.concatenate([tied, below, above])
    nearer = np.where(tied < 9e37, finite[1:], finite[:-1])
    expected = np.concatenate([even, finite[:-1], nearer]).astype(np.float32)
    special = np.array([np.finfo(np.float32).max, np.inf, np.nan], np.float32)
    x, expected = (np.concatenate([y, -y]) for y in (
        np.concatenate([x, special]), np.concatenate([expected, [np.inf, np.inf, np.nan]])
    ))  # fmt: skip
    rounded = device_empty(x.shape, np.uint16)
    library.launch("narrow", (1,), (32,), (device_array(x), rounded, np.int32(x.size)))
    back = (np.array(rounded).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(back, expected)
    np.testing.assert_array_equal(np.signbit(back)[x == x], np.signbit(x)[x == x])
