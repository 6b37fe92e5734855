"""Arrays of NumPy or CuPy: their type, and the library of a given array."""

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray: this project uses only their common interface


def array_module(x: Array) -> ModuleType:
    """Return the library of the array x: numpy or cupy."""
    # If x is a CuPy array, cupy is imported already: no import is needed.
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else np


def are_indices(x: Array) -> bool:
    """Return whether kernels can read x as indices: int64 [N], contiguous."""
    return x.dtype == np.int64 and x.ndim == 1 and x.flags.c_contiguous
