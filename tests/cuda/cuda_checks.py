"""What the tests of the CUDA kernels share: random arrays, comparison with the reference."""

import shutil

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st

from minddpm.kernels import cuda, reference
from minddpm.kernels.emulator import cupy_on_cpu
from minddpm.kernels.emulator.cupy_on_cpu.cuda import emulation

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
ORDERS = (0, 1, 2)  # of threads: as numbered, reversed, random
SIZES = st.sampled_from([1, 2, 3, 5, 7, 14])
few_examples = settings(max_examples=12, deadline=None)


def draw(seed, *shapes):
    """Return one float32 array of standard normal numbers for each shape."""
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def mapped(function, x, kind):
    """Return x, nested tuples, with the function applied to every array of this kind."""
    if isinstance(x, (tuple, list)):
        return tuple(mapped(function, part, kind) for part in x)
    return function(x) if isinstance(x, kind) else x


def flat(x):
    """Return the arrays in nested results."""
    if isinstance(x, (tuple, list)):
        return [array for part in x for array in flat(part)]
    return [] if x is None else [x]


def check(result, expected, tolerance=1e-5):
    """Compare by the largest error relative to the largest entry; a NaN fails."""
    expected = np.asarray(expected)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max(initial=0) <= tolerance * max(1.0, np.abs(expected).max())


def in_every_order(function, *arguments):
    """Return the results of a function of device arrays, the same in every order of the threads."""
    results = []
    for order in ORDERS:
        on_device = mapped(cupy_on_cpu.asarray, arguments, np.ndarray)
        emulation.order = order
        try:
            got = function(*on_device)
        finally:
            emulation.order = 0
        results.append([cupy_on_cpu.asnumpy(a) for a in flat(got)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)
    return results[0]


def check_kernel(name, *arguments, tolerance=2e-6):
    """Compare a function with the reference in float64, whose result is returned."""
    kernel, specification = getattr(cuda, name), getattr(reference, name)
    expected = specification(*mapped(lambda a: a.astype(float), arguments, np.ndarray))
    results = in_every_order(kernel, *arguments)
    for result, wanted in zip(results, flat(expected), strict=True):
        check(result, wanted, tolerance)
    return expected
