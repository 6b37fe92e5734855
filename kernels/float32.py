"""Dispatch of compiled kernel sets: float32 arrays to their kernels, others to the reference."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

import numpy as np

from minddpm.kernels import reference
from minddpm.kernels.arrays import array_module


def float32_only(function: Callable) -> Callable:
    """Make `function` call the reference unless all arrays are float32; it gets contiguous ones.

    Empty arrays go to the reference, too: an empty batch leaves a kernel nothing to divide among
    threads. The reference's function has the same name. The parameter `saved`, which the forward
    of the same kernel set returned, is passed on unchanged.
    """
    names = list(signature(function).parameters)
    saved = names.index("saved") if "saved" in names else None
    specification = getattr(reference, function.__name__)

    @wraps(function)
    def dispatch(*args, **kwargs):
        contiguous = _contiguous_float32(args, saved)
        if contiguous is None:
            return specification(*args, **kwargs)
        return function(*contiguous, **kwargs)

    return dispatch


def contiguous_float32(*arrays: Any) -> bool:
    """Return whether kernels can change these arrays (or None) in place: C-contiguous float32."""
    return all(x is None or (x.dtype == np.float32 and x.flags.c_contiguous) for x in arrays)


def _contiguous_float32(args: tuple[Any, ...], saved: int | None = None) -> tuple[Any, ...] | None:
    """Return the arguments with every array contiguous; None if one is empty or not float32."""
    prepared = []
    for i, x in enumerate(args):
        if i != saved:
            if isinstance(x, tuple):
                x = _contiguous_float32(x)
                if x is None:
                    return None
            elif hasattr(x, "flags"):  # an array of either library
                if x.dtype != np.float32 or x.size == 0:
                    return None
                if not x.flags.c_contiguous:
                    x = array_module(x).ascontiguousarray(x)
        prepared.append(x)
    return tuple(prepared)
