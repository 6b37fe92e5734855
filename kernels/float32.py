"""Dispatch of the compiled kernel sets: they take contiguous float32 arrays, the reference all."""

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any

import numpy as np

from minddpm.kernels import reference
from minddpm.kernels.arrays import array_module


def float32_only(function: Callable) -> Callable:
    """Call `function` with contiguous float32 arrays, and the reference if one has another type.

    The reference's function has the same name. The parameter `saved` (what `function` saved in its
    own forward) is passed on as it is.
    """
    names = list(signature(function).parameters)
    saved = names.index("saved") if "saved" in names else None
    specification = getattr(reference, function.__name__)

    @wraps(function)
    def chosen(*args, **kwargs):
        contiguous = _contiguous_float32(args, saved)
        if contiguous is None:
            return specification(*args, **kwargs)
        return function(*contiguous, **kwargs)

    return chosen


def _contiguous_float32(args: tuple[Any, ...], saved: int | None = None) -> tuple[Any, ...] | None:
    """Return the arguments with every array contiguous; None if an array is not float32."""
    prepared = []
    for i, x in enumerate(args):
        if i != saved:
            if isinstance(x, tuple):
                x = _contiguous_float32(x)
                if x is None:
                    return None
            elif hasattr(x, "flags"):  # an array of either library
                if x.dtype != np.float32:
                    return None
                if not x.flags.c_contiguous:
                    x = array_module(x).ascontiguousarray(x)
        prepared.append(x)
    return tuple(prepared)
