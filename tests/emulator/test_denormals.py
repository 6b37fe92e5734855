"""Denormal numbers of float32 are zero in a kernel's arithmetic, as CuPy compiles it."""

import numpy as np
import pytest
from cuda_checks import ORDERS, needs_compiler

from minddpm import backend
from minddpm.kernels.emulator import EmulatorError, Library, device_array, device_empty
from minddpm.kernels.emulator.build import MODES

pytestmark = needs_compiler

SOURCE = """
extern "C" __global__ void compute(const float* a, const float* b, float* out, int n) {
    int i = threadIdx.x;
    __syncthreads();
    float difference = a[i] - b[i];
    __syncthreads();
    out[i] = a[i];
    out[n + i] = a[i] + b[i];
    out[2 * n + i] = difference;
    out[3 * n + i] = a[i] * 0x1p60f;
    out[4 * n + i] = expf(a[i] < 0.0f ? -100.0f : -87.0f);
    if (n > 100) *(float*)64 = 0;  // where no array is
}
"""
TINY, LEAST = (
    np.float32(2.0**-130),
    np.float32(2.0**-126),
)  # LEAST is the least that is not denormal
A = np.array([TINY, 1.5 * LEAST, -LEAST, 1], np.float32)
B = np.array([TINY, LEAST, TINY, TINY], np.float32)


def keeps_denormals():
    """Return whether Python and NumPy compute with denormal numbers."""
    return TINY * np.float32(2) == np.float32(2.0**-129) and 2.0**-1074 * float(A[3]) > 0


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("order", ORDERS)
def test_arithmetic_flushes_and_copies_do_not(mode, order):
    n, out = len(A), device_empty((5, len(A)))
    library = Library(SOURCE, mode=mode)
    arguments = device_array(A), device_array(B), out, np.int32(n)
    library.launch("compute", (1,), (n,), arguments, order=order)
    np.testing.assert_array_equal(out[0], A)
    np.testing.assert_array_equal(out[1], [0, 2.5 * LEAST, -LEAST, 1])
    np.testing.assert_array_equal(out[2], [0, 0, -LEAST, 1])
    np.testing.assert_array_equal(out[3], A * np.float32(2.0**60) * [0, 1, 1, 1])
    np.testing.assert_allclose(out[4], [np.exp(-87.0), np.exp(-87.0), 0, np.exp(-87.0)], rtol=1e-6)
    assert keeps_denormals()


def test_python_keeps_denormals_after_a_fault():
    n, big = 101, device_array(np.zeros(101, np.float32))
    with pytest.raises(EmulatorError, match="unmapped memory"):
        Library(SOURCE).launch("compute", (1,), (n,), (big, big, device_empty(505), np.int32(n)))
    assert keeps_denormals()


DIVERGENT = """
extern "C" __global__ void wrong(int* p) {
    if (threadIdx.x) __syncthreads();
    p[threadIdx.x] = 0;
}
"""


def test_python_keeps_denormals_after_an_error():
    with pytest.raises(EmulatorError, match="divergent barrier"):
        Library(DIVERGENT).launch("wrong", (1,), (32,), (device_array(np.zeros(32, np.int32)),))
    assert keeps_denormals()


def test_tensor_cores_keep_denormals(xp):
    """Those of bfloat16, which has them where float32 has them."""
    backend.set_precision("bf16")
    x, w = xp.full((1, 3, 3, 16), TINY), xp.full((1, 1, 16, 32), np.float32(2.0**10))
    y = backend.kernels.conv2d(x, w, None, 1, ((0, 0), (0, 0)))
    assert (backend.to_numpy(y) == 2.0**-130 * 2.0**10 * 16).all()
