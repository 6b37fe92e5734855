"""The options of NumPy's functions that CuPy's functions of the same name lack."""

from collections.abc import Callable
from typing import Any

import numpy as np

# The options that CuPy's ufuncs take, and those that its other functions lack or name otherwise.
UFUNC_OPTIONS = {"out", "dtype", "casting"}
NOT_IN_CUPY = {"where", "initial", "mean", "correction", "subok", "device", "like"}
NOT_IN_THIS = {
    np.clip: {"min", "max"}, np.stack: {"arrays"},
    np.reshape: {"shape", "copy"}, np.ndarray.reshape: {"copy"},
    np.take: {"mode"}, np.ndarray.take: {"mode"}, np.lib.stride_tricks.as_strided: {"writeable"},
}  # fmt: skip


def refuses(function: Callable[..., Any], option: str) -> bool:
    """Return whether CuPy's function of this name lacks an option that NumPy's takes."""
    if isinstance(function, np.ufunc):
        return option not in UFUNC_OPTIONS
    return option in NOT_IN_CUPY or option in NOT_IN_THIS.get(function, ())
