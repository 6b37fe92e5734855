"""A stand-in for CuPy without a GPU: arrays computed by NumPy, raw kernels run by the emulator.

    from minddpm.kernels.emulator import cupy_on_cpu

    cupy = cupy_on_cpu.install()  # from now on `import cupy` imports this module
    x = cupy.asarray(numpy_array)
    cupy.RawModule(code=source).get_function("scale")((4,), (256,), (x, y, np.int32(n)))

This package itself takes the place of the module cupy, and has the part of CuPy that minddpm uses.
The stand-in is for tests: it raises where CuPy would raise and finds errors in kernels. It is
slower than NumPy, and its speed says nothing about a GPU. With MINDDPM_CUDA=emulate in the
environment, --backend cupy uses it.

    arrays.py   cupy.ndarray, which is never converted to a NumPy array implicitly
    options.py  the options of NumPy's functions that CuPy's lack
    cuda.py     cupy.cuda: streams, graphs, events; raw kernels
    nccl.py     cupy.cuda.nccl: sums over ranks, by MPI
    memory.py   allocation of arrays, pinned memory
    pool.py     memory pools, which keep freed blocks
    state.py    counts of launches, copies and synchronisations; what CUDA forbids while recording
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from minddpm.kernels.emulator.cupy_on_cpu import cuda
from minddpm.kernels.emulator.cupy_on_cpu.arrays import compute, ndarray, new, on_device
from minddpm.kernels.emulator.cupy_on_cpu.cuda import RawKernel, RawModule
from minddpm.kernels.emulator.cupy_on_cpu.memory import default_pool, is_pinned
from minddpm.kernels.emulator.cupy_on_cpu.pool import MemoryPool
from minddpm.kernels.emulator.cupy_on_cpu.state import copy_from_host, stats

# NumPy's functions that need only their array arguments and results converted.
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
# Objects that both libraries share.
SHARED = (
    "bool_", "complex64", "complex128", "dtype", "e", "float16", "float32", "float64", "inf",
    "int8", "int16", "int32", "int64", "nan", "newaxis", "pi", "uint8", "uint16", "uint32",
    "uint64",
)  # fmt: skip
ITS_OWN = ("install", "stats")  # all other public names exist in CuPy
__version__ = "0 (the stand-in)"
__all__ = [
    "install", "stats", *FUNCTIONS, *SHARED, "RawKernel", "RawModule", "array", "asarray",
    "ascontiguousarray", "asnumpy", "copyto", "cuda", "empty", "empty_like", "get_array_module",
    "get_default_memory_pool", "get_default_pinned_memory_pool", "lib", "ndarray",
]  # fmt: skip


def _for_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a NumPy function as a function of device arrays."""

    def apply(*arguments: Any, **options: Any) -> Any:
        result = compute(function, *arguments, **options)
        out = options.get("out")
        return result if out is None else out

    apply.__doc__ = f"numpy.{function.__name__} on the device."
    apply.__wrapped__ = function  # inspect.signature reads it
    return apply


for _name in FUNCTIONS:
    globals()[_name] = _for_device(getattr(np, _name))
for _name in SHARED:
    globals()[_name] = getattr(np, _name)
lib = SimpleNamespace(
    stride_tricks=SimpleNamespace(
        as_strided=_for_device(np.lib.stride_tricks.as_strided),
        sliding_window_view=_for_device(np.lib.stride_tricks.sliding_window_view),
    )
)


# --- creating arrays, copying to the host --------------------------------------------------------


def empty(shape: int | tuple[int, ...], dtype: Any = float) -> ndarray:
    """Return a new array, filled with NaNs so that reads before writes are noticed."""
    return ndarray(shape, dtype)


def empty_like(prototype: ndarray, dtype: Any = None) -> ndarray:
    """Return a new array with the shape and dtype of another."""
    return ndarray(prototype.shape, dtype or prototype.dtype)


def array(obj: Any, dtype: Any = None) -> ndarray:
    """Return a copy on the device of a device or host array, a list or a number."""
    if isinstance(obj, ndarray):
        return compute(np.array, obj, dtype)
    values = np.array(obj, dtype)
    if not values.ndim:
        return new(values.copy)  # CuPy launches a kernel that fills the array
    if isinstance(obj, np.ndarray) and is_pinned(obj) and obj.dtype == values.dtype:
        copy_from_host(obj, pinned=True)
    else:
        copy_from_host(None, pinned=True)  # CuPy copies through its own pinned memory
    return on_device(values)


def asarray(a: Any, dtype: Any = None) -> ndarray:
    """Return the array itself if it is on the device with this dtype, else a copy."""
    if isinstance(a, ndarray) and dtype in (None, a.dtype):
        return a
    return array(a, dtype)


def ascontiguousarray(a: Any, dtype: Any = None) -> ndarray:
    """Return the array itself if it is C-contiguous with this dtype, else a C-contiguous copy."""
    a = asarray(a, dtype)
    return a if a.flags.c_contiguous else compute(np.ascontiguousarray, a)


def asnumpy(a: Any) -> np.ndarray:
    """Return the array as a NumPy array on the host."""
    return a.get() if isinstance(a, ndarray) else np.asarray(a)


def copyto(dst: ndarray, src: ndarray) -> None:
    """Copy an array into another one of this shape and dtype."""
    dst[...] = src


def get_array_module(*args: Any) -> ModuleType:
    """Return this module if one of the arguments is a device array, else NumPy."""
    return sys.modules[__name__] if any(isinstance(a, ndarray) for a in args) else np


def get_default_memory_pool() -> MemoryPool:
    """Return the pool that allocates arrays outside of using_allocator."""
    return default_pool


def get_default_pinned_memory_pool() -> SimpleNamespace:
    """Return a pool that never holds free blocks."""
    return SimpleNamespace(n_free_blocks=lambda: 0, free_all_blocks=lambda: None)


def install() -> ModuleType:
    """Make `import cupy`, and that of its parts, import the stand-in, and return it."""
    sys.modules["cupy"], sys.modules["cupy.cuda"] = sys.modules[__name__], cuda
    sys.modules["cupy.cuda.nccl"] = cuda.nccl
    return sys.modules[__name__]
