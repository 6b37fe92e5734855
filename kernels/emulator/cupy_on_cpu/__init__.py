"""A stand-in for CuPy that needs no GPU: its arrays on NumPy, its raw kernels on the emulator.

    from minddpm.kernels.emulator import cupy_on_cpu

    cupy = cupy_on_cpu.install()  # `import cupy` now gives this module
    x = cupy.asarray(numpy_array)
    cupy.RawModule(code=source).get_function("scale")((4,), (256,), (x, y, np.int32(n)))

It has what minddpm uses, and is there to find what CuPy would refuse (cupy_array.py) and what a
kernel does wrong; it is slower than NumPy and says nothing about speed. With MINDDPM_CUDA=emulate
in the environment --backend cupy runs on it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from minddpm.kernels.emulator.cupy_on_cpu import cuda
from minddpm.kernels.emulator.cupy_on_cpu.array import compute, ndarray, place
from minddpm.kernels.emulator.cupy_on_cpu.cuda import RawKernel, RawModule
from minddpm.kernels.emulator.cupy_on_cpu.memory import MemoryPool, default_pool, is_pinned
from minddpm.kernels.emulator.cupy_on_cpu.state import copy_from_host, launch_array_code, stats

# NumPy's functions that need no more than other arrays around them.
FUNCTIONS = (
    "abs", "absolute", "add", "all", "allclose", "any", "arange", "arccos", "argmax", "argmin",
    "array_equal", "broadcast_to", "clip", "concatenate", "cos", "cumsum", "divide", "dot",
    "einsum", "equal", "exp", "expand_dims", "expm1", "eye", "full", "full_like", "isfinite",
    "isinf", "isnan", "linspace", "log", "log1p", "matmul", "max", "maximum", "mean", "min",
    "minimum", "moveaxis", "multiply", "negative", "ones", "ones_like", "outer", "pad", "power",
    "prod", "ravel", "repeat", "reshape", "round", "sign", "sin", "split", "sqrt", "square",
    "squeeze", "stack", "std", "subtract", "sum", "swapaxes", "take", "tanh", "tensordot",
    "tile", "transpose", "var", "where", "zeros", "zeros_like",
)  # fmt: skip
# What is the same object in both libraries.
SHARED = (
    "bool_", "complex64", "complex128", "dtype", "e", "float16", "float32", "float64", "inf",
    "int8", "int16", "int32", "int64", "nan", "newaxis", "pi", "uint8", "uint16", "uint32",
    "uint64",
)  # fmt: skip
ITS_OWN = ("install", "stats")  # all other names are CuPy's
__version__ = "0 (the stand-in)"
__all__ = [
    "install", "stats", *FUNCTIONS, *SHARED, "RawKernel", "RawModule", "array", "asarray",
    "ascontiguousarray", "asnumpy", "cuda", "empty", "empty_like", "get_array_module",
    "get_default_memory_pool", "get_default_pinned_memory_pool", "lib", "ndarray",
]  # fmt: skip


def _on_stand_ins(function: Callable[..., Any]) -> Callable[..., Any]:
    def apply(*arguments: Any, **options: Any) -> Any:
        result = compute(function, *arguments, **options)
        out = options.get("out")
        return result if out is None else out

    apply.__doc__ = f"numpy.{function.__name__} on the device."
    apply.__wrapped__ = function  # whose signature it has
    return apply


for _name in FUNCTIONS:
    globals()[_name] = _on_stand_ins(getattr(np, _name))
for _name in SHARED:
    globals()[_name] = getattr(np, _name)
lib = SimpleNamespace(
    stride_tricks=SimpleNamespace(
        as_strided=_on_stand_ins(np.lib.stride_tricks.as_strided),
        sliding_window_view=_on_stand_ins(np.lib.stride_tricks.sliding_window_view),
    )
)


# --- making arrays, and to the host --------------------------------------------------------------


def empty(shape: int | tuple[int, ...], dtype: Any = float) -> ndarray:
    """A new array, full of NaNs: whoever reads it before writing will see them."""
    return ndarray(shape, dtype)


def empty_like(prototype: ndarray, dtype: Any = None) -> ndarray:
    """A new array of the shape and type of another."""
    return ndarray(prototype.shape, dtype or prototype.dtype)


def array(obj: Any, dtype: Any = None) -> ndarray:
    """A copy on the device of an array, there or on the host, of a list or a number."""
    if isinstance(obj, ndarray):
        return compute(np.array, obj, dtype)
    values = np.array(obj, dtype)
    if not values.ndim:
        launch_array_code()  # CuPy fills the array with the number
    elif isinstance(obj, np.ndarray) and is_pinned(obj) and obj.dtype == values.dtype:
        copy_from_host(obj, pinned=True)
    else:
        copy_from_host(None, pinned=True)  # from CuPy's own pinned memory
    return place(values)


def asarray(a: Any, dtype: Any = None) -> ndarray:
    """The array itself if it is on the device and has the type, else a copy."""
    if isinstance(a, ndarray) and dtype in (None, a.dtype):
        return a
    return array(a, dtype)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    """The array itself if it is C-contiguous and has the type, else a copy that is."""
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else compute(np.ascontiguousarray, a)


def asnumpy(a: Any) -> np.ndarray:
    """The array on the host."""
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def get_array_module(*args: Any) -> ModuleType:
    """This module if one of the arguments is an array of the device, else NumPy."""
    return sys.modules[__name__] if any(isinstance(a, ndarray) for a in args) else np


def get_default_memory_pool() -> MemoryPool:
    """Where arrays get their memory unless using_allocator says otherwise."""
    return default_pool


def get_default_pinned_memory_pool() -> SimpleNamespace:
    """A pool that holds nothing."""
    return SimpleNamespace(n_free_blocks=lambda: 0, free_all_blocks=lambda: None)


def install() -> ModuleType:
    """Make `import cupy` and `import cupy.cuda` give the stand-in; returns it."""
    sys.modules["cupy"], sys.modules["cupy.cuda"] = sys.modules[__name__], cuda
    return sys.modules[__name__]
