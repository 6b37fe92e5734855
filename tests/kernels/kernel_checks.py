"""What the tests of the kernels share: sizes, tolerances and comparisons."""

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from minddpm import backend
from minddpm.kernels import reference

SIZES = st.sampled_from([1, 2, 3, 5, 7, 8, 14])
CHANNELS = st.sampled_from([1, 3, 5, 32])
few_examples = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
# Winograd's F(4x4) adds and subtracts numbers that nearly cancel: its error is up to 3e-5 of the
# largest entry, that of the direct sum 1e-6.
WINOGRAD = 3e-5


def device(*arrays):
    """Return the arrays on the active backend's device."""
    return [backend.xp.asarray(a) for a in arrays]


def flat(x):
    """Return the arrays in nested tuples."""
    return [array for part in x for array in flat(part)] if isinstance(x, tuple) else [x]


def check(result, expected, tolerance=1e-5):
    """Compare by the largest error relative to the largest entry; a NaN fails."""
    result = backend.to_numpy(result)
    assert result.shape == expected.shape
    assert np.abs(result - expected).max() <= tolerance * max(1.0, np.abs(expected).max())


def check_equal(results, expected):
    """Compare pairs of arrays bit by bit."""
    for result, value in zip(results, expected, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(result), backend.to_numpy(value))


def in_float64(function, *arguments):
    """Call a reference function with its arrays, also those in tuples, converted to float64."""

    def wide(x):
        if isinstance(x, tuple):
            return tuple(map(wide, x))
        return x.astype(float) if isinstance(x, np.ndarray) else x

    return getattr(reference, function)(*map(wide, arguments))
