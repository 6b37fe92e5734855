"""Rounding to half and bfloat16 in the emulator (ptx.cuh), at every number of 16 bits."""

from functools import cache

import numpy as np
import pytest
from cuda_checks import needs_compiler
from roundings import to_half

from minddpm.kernels.emulator import Library, device_array, device_empty

pytestmark = needs_compiler

KERNEL = """
extern "C" __global__ void run_NAME(const FROM* x, TO* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = NAME(x[i]);
}
"""
BITS, FLOAT = "unsigned short", "float"
FUNCTIONS = {
    "to_half": (FLOAT, BITS), "from_half": (BITS, FLOAT), "to_bfloat16": (FLOAT, BITS),
    "from_bfloat16": (BITS, FLOAT),
}  # fmt: skip
EVERY = np.arange(1 << 16).astype(np.uint16)
EVERY_HALF = EVERY.view(np.float16)


@cache
def library():
    source = '#include "ptx.cuh"\n'
    for name, (before, after) in FUNCTIONS.items():
        source += KERNEL.replace("NAME", name).replace("FROM", before).replace("TO", after)
    return Library(source)


def converted(name, x):
    """Return a function of ptx.cuh of every number."""
    y = device_empty(x.shape, np.uint16 if FUNCTIONS[name][1] == BITS else np.float32)
    library().launch(f"run_{name}", (1,), (32,), (device_array(x), y, np.int32(x.size)))
    return np.array(y)


def test_every_half_as_float():
    y = converted("from_half", EVERY)
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
    y = converted("to_half", x).view(np.float16)
    expected = to_half(x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y)[x == x], np.signbit(x)[x == x])


def test_bfloat16():
    """Each as a float, and rounding at the midpoint between each and the next."""
    widened = converted("from_bfloat16", EVERY)
    np.testing.assert_array_equal(widened.view(np.uint32), EVERY.astype(np.uint32) << 16)

    finite = np.array(widened[:0x7F80]).astype(float)  # all below infinity
    ties = (finite[1:] + finite[:-1]) / 2
    even = np.where(EVERY[: ties.size] % 2, finite[1:], finite[:-1])
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
    back = (converted("to_bfloat16", x).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(back, expected)
    np.testing.assert_array_equal(np.signbit(back)[x == x], np.signbit(x)[x == x])


def test_halves_that_were_not_written_are_nan():
    assert np.isnan(device_empty(7, np.float16)).all()
    memory = "__shared__ unsigned short memory[64]; y[threadIdx.x] = memory[threadIdx.x];"
    source = f'extern "C" __global__ void unwritten(unsigned short* y) {{ {memory} }}'
    y = device_empty(64, np.uint16)
    Library(source).launch("unwritten", (1,), (64,), (y,))
    assert np.isnan(y.view(np.float16)).all()


def test_a_format_that_a_t4_lacks_is_unknown():
    before = "#undef __CUDA_ARCH__\n#define __CUDA_ARCH__ 750\n"
    source = 'extern "C" __global__ void f(float* x) { x[0] = to_bfloat16(x[0]); }'
    with pytest.raises(RuntimeError, match="to_bfloat16"):
        Library(f'{before}#include "ptx.cuh"\n{source}')
