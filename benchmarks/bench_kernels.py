"""The hot operations of the UNet at its own shapes, each kernel set in turn.

A result is compared with the reference before it is timed: a wrong or nan one fails the benchmark.
"""

import numpy as np
import pytest

import minddpm
from minddpm import backend
from minddpm.kernels import reference

N = 16
SAME = ((1, 1), (1, 1))
RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.standard_normal(shape, dtype=np.float32)


def convolution(H, C, K):
    x, w, b = normal(N, H, H, C), normal(3, 3, C, K) / np.sqrt(9 * C), normal(K)
    return "conv2d", (x, w.astype(np.float32), b, 1, SAME)


def convolution_backward(H, C, K):
    x, w = normal(N, H, H, C), normal(3, 3, C, K) / np.sqrt(9 * C)
    return "conv2d_backward", (normal(N, H, H, K), x, w.astype(np.float32), 1, SAME)


OPERATIONS = {
    "conv 28x28x32": lambda: convolution(28, 32, 32),
    "conv 14x14x64": lambda: convolution(14, 64, 64),
    "conv 7x7x64": lambda: convolution(7, 64, 64),
    "conv 28x28x32 backward": lambda: convolution_backward(28, 32, 32),
    "conv 14x14x64 backward": lambda: convolution_backward(14, 64, 64),
    "norm+silu 28x28x32": lambda: (
        "group_norm_silu",
        (normal(N, 28, 28, 32), normal(32), normal(32), 8, 1e-5),
    ),
    "attention 7x7x64": lambda: ("attention", (*(normal(N, 49, 64) for _ in range(3)), 8)),
    "linear 128 to 64": lambda: ("linear", (normal(N, 128), normal(128, 64), normal(64))),
}


def first(result):
    return backend.to_numpy(result[0] if isinstance(result, tuple) else result)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_kernel(benchmark, operation, name):
    minddpm.set_backend(name)
    benchmark.group = operation
    function, arguments = OPERATIONS[operation]()
    expected = first(getattr(reference, function)(*arguments))
    kernel = getattr(backend.kernels, function)
    error = np.abs(first(kernel(*arguments)) - expected).max() / np.abs(expected).max()
    assert error < 1e-4  # also false for nan
    benchmark(kernel, *arguments)
