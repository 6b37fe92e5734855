"""Nested arrays in arguments and results: moving them to a device, and comparing them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from minddpm import backend


class WrongResultError(AssertionError):
    """Raised if a result differs from the reference or is nan; its code is then not timed."""


def mapped(function: Callable[[np.ndarray], Any], x: Any) -> Any:
    """Return x, which may be nested tuples, with the function applied to every NumPy array."""
    if isinstance(x, (tuple, list)):
        return tuple(mapped(function, part) for part in x)
    return function(x) if isinstance(x, np.ndarray) else x


def arrays(result: Any) -> list[np.ndarray]:
    """Return all arrays of a result, on the host in float64.

    result: an array, a number, or nested tuples of them; None (not computed) is omitted.
    """
    if isinstance(result, (tuple, list)):
        return [a for part in result for a in arrays(part)]
    return [] if result is None else [np.asarray(backend.to_numpy(result), np.float64)]


def relative_error(got: np.ndarray, wanted: np.ndarray) -> float:
    """Return max |got - wanted| / max |wanted|; nan if an entry is nan, inf if shapes differ."""
    if got.shape != wanted.shape:
        return np.inf
    difference = np.abs(got - wanted).max(initial=0)
    return float(difference / max(np.abs(wanted).max(initial=0), 1e-30))


def largest_error(result: Any, expected: Any) -> float:
    """Return the largest relative_error of all arrays: nan if any is nan, inf if counts differ."""
    got, wanted = arrays(result), arrays(expected)
    if len(got) != len(wanted):
        return np.inf
    return float(np.max([relative_error(a, b) for a, b in zip(got, wanted, strict=True)]))


def verify(result: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Raise WrongResultError unless every array of `result` is within tolerance of `expected`."""
    got, wanted = arrays(result), arrays(expected)
    if [a.shape for a in got] != [a.shape for a in wanted]:
        raise WrongResultError(f"shapes {[a.shape for a in got]}, not {[a.shape for a in wanted]}")
    for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
        error = relative_error(a, b)
        if not error < tolerance:  # error >= tolerance would let nan pass
            raise WrongResultError(
                f"array {i} is off by {error:.1e}; at most {tolerance:.0e} is allowed"
            )
