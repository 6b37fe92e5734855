"""What both array libraries share: the type of an array, and which library made one."""

import sys
from types import ModuleType
from typing import Any

import numpy as np

Array = Any  # numpy.ndarray or cupy.ndarray: the two share the interface that this project uses


def array_module(x: Array) -> ModuleType:
    """Return the library that made the array x: numpy or cupy."""
    # A CuPy array exists only if cupy was imported, so looking it up costs no import.
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else np
