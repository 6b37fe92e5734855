"""The array class of the stand-in for CuPy: a NumPy array that refuses to be used as one.

Its values lie in the emulator's guarded memory, and NumPy computes on them. The class raises where
CuPy raises: nothing is copied to or from the host implicitly. It counts operations that cost time
on a GPU (state.py). If CuPy accepts what NumPy rejects, this class rejects it too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from minddpm.kernels.emulator import memory
from minddpm.kernels.emulator.cupy_on_cpu import memory as cupy_memory
from minddpm.kernels.emulator.cupy_on_cpu.options import refuses
from minddpm.kernels.emulator.cupy_on_cpu.state import (
    copy_from_host,
    is_recorded,
    launch_array_code,
    stats,
    synchronise,
)

# Launches of CuPy 14.2 for functions that do not take one. zeros is a memset.
LAUNCHES = {
    np.zeros: 0, np.zeros_like: 0, np.concatenate: 2, np.stack: 2, np.array_equal: 2, np.var: 3,
    np.ndarray.var: 3,
}  # fmt: skip


def compute(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Apply a NumPy function to device arrays; the result is on the device as well."""
    for name in options:
        if refuses(function, name):
            raise TypeError(f"cupy's {function.__name__} takes no {name}")
    arguments = tuple(map(unwrap, arguments))
    options = {name: unwrap(value) for name, value in options.items()}
    again = partial(function, *arguments, **options)
    if options.get("out") is not None:
        if launch_array_code(again):
            again()
        return None
    return new(again, LAUNCHES.get(function, 1))


def unwrap(x: Any) -> Any:
    """Return the NumPy values of a device array, also within a list; other arguments unchanged."""
    if isinstance(x, ndarray):
        return x._values
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    return type(x)(map(unwrap, x)) if type(x) in (list, tuple) else x


def new(again: Callable[[], Any], launches: int = 1) -> Any:
    """Return the results of again() as device arrays, also numbers: in CuPy a sum is a 0-d array.

    launches: that are counted unless the result is a view. While a stream records, the values are
    those of memory that no kernel has written yet; only their shapes matter.
    """
    with np.errstate(all="ignore") if is_recorded() else nullcontext():
        result = again()
    if isinstance(result, (list, tuple)):
        return type(result)(map(on_device, result))  # views, as of split
    if not isinstance(result, (np.ndarray, np.generic, bool)):  # array_equal returns a bool
        return result
    x = on_device(np.asarray(result))
    if x._values is not result:
        launch_array_code(lambda: np.copyto(x._values, again()), launches)
    return x


def on_device(values: np.ndarray) -> ndarray:
    """Return a device array of the values, which are copied unless they lie in device memory."""
    if values.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {values.dtype}")
    x = object.__new__(ndarray)
    x._values = values if memory.holds(values) else _copy(values)
    return x


def _copy(values: np.ndarray) -> np.ndarray:
    """Copy to device memory with the same order of axes: a transposed result stays transposed."""
    if values.flags.c_contiguous:
        return cupy_memory.array(values)
    order = sorted(range(values.ndim), key=lambda axis: -values.strides[axis])
    return cupy_memory.array(values.transpose(order)).transpose(np.argsort(order))


def _operand(x: Any) -> Any:
    """Return an operand's values; raises TypeError unless it is a device array or a number."""
    if isinstance(x, ndarray):
        return x._values
    if isinstance(x, (bool, int, float, complex, np.generic)):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def _index(key: Any) -> Any:
    """Return an index for NumPy. Host arrays and lists are allowed, because CuPy copies them."""
    if isinstance(key, tuple):
        return tuple(map(_index, key))
    if isinstance(key, (np.ndarray, list)):
        copy_from_host(None, pinned=True)
        return key
    return unwrap(key)


def _is_mask(key: Any) -> bool:
    keys = key if isinstance(key, tuple) else (key,)
    return any(isinstance(k, (ndarray, np.ndarray)) and k.dtype == bool for k in keys)


class ndarray:  # noqa: N801 - CuPy's name
    """An array on the device."""

    __slots__ = ("__weakref__", "_values")
    __hash__ = None
    __array_priority__ = 100

    def __init__(self, shape: int | tuple[int, ...], dtype: Any = float):
        self._values = cupy_memory.empty(shape, dtype)

    # --- copying to and from the host ------------------------------------------------------------

    def get(self) -> np.ndarray:
        """Return a copy on the host."""
        synchronise("get")
        stats.to_host += 1
        return self._values.copy()

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        """Copy the values of a NumPy array of the same shape and dtype to this array.

        From pinned memory the copy is asynchronous (HostCopies in state.py).
        """
        if not isinstance(arr, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if arr.dtype != self.dtype:
            raise TypeError(f"{arr.dtype} array cannot be set to {self.dtype} array")
        if arr.shape != self.shape:
            raise ValueError(f"Shape mismatch. Old shape: {self.shape}, new shape: {arr.shape}")
        copy_from_host(arr, cupy_memory.is_pinned(arr))
        self._values[...] = arr

    def item(self) -> Any:
        """Return the only value, as a Python number."""
        synchronise("item")
        stats.to_host += 1
        return self._values.item()

    def tolist(self) -> Any:
        """Return the values as nested lists of Python numbers."""
        return self.get().tolist()

    def __bool__(self) -> bool:
        synchronise("bool")
        stats.to_host += 1
        return bool(self._values)

    def __int__(self) -> int:
        return int(self.item())

    def __float__(self) -> float:
        return float(self.item())

    def __repr__(self) -> str:
        return repr(self.get())

    def __str__(self) -> str:
        return str(self.get())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. Please use `.get()` to "
            "construct a NumPy array explicitly."
        )

    # --- NumPy's functions -----------------------------------------------------------------------

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **options: Any) -> Any:
        if method != "__call__":
            return NotImplemented
        if out := options.pop("out", None):
            return _into(out[0], ufunc, *inputs, **options)
        return compute(ufunc, *map(_checked, inputs), **options)

    def __array_function__(self, function: Any, _types: Any, arguments: Any, options: Any) -> Any:
        module = importlib.import_module("minddpm.kernels.emulator.cupy_on_cpu")
        ours = getattr(module, function.__name__, None)
        return NotImplemented if ours is None else ours(*arguments, **options)

    # --- parts -----------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> ndarray:
        if masked := _is_mask(key):
            synchronise("indexing with a mask, whose values determine the shape of the result,")
        index = _index(key)
        return new(lambda: self._part(index), launches=1 + masked)

    def _part(self, index: Any) -> np.ndarray:
        """Return a part of the values. A single element is an 0-d array, too: a view."""
        if isinstance(part := self._values[index], np.generic):
            return self._values[(*index, ...) if isinstance(index, tuple) else (index, ...)]
        return part

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        values, index = _operand(value), _index(key)

        def work() -> None:
            self._values[index] = values

        if launch_array_code(work, 0 if self._needs_no_kernel(index, values) else 1):
            work()

    def _needs_no_kernel(self, index: Any, values: Any) -> bool:
        """Return whether CuPy only copies bytes to this part of the array, or sets them to zero."""
        part = self._part(index)
        if not memory.holds(part) or not part.flags.c_contiguous:
            return False
        if not isinstance(values, np.ndarray):
            return bool(values == 0)
        same = (part.shape, part.dtype) == (values.shape, values.dtype)
        return same and values.flags.c_contiguous

    @property
    def data(self) -> SimpleNamespace:
        """An object whose .ptr is the address of the first value."""
        return SimpleNamespace(ptr=self._values.ctypes.data)

    @property
    def flags(self) -> SimpleNamespace:
        """The memory layout; these flags are read-only, as in CuPy."""
        flags = self._values.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous,
            f_contiguous=flags.f_contiguous,
            owndata=flags.owndata,
        )

    @property
    def T(self) -> ndarray:  # noqa: N802
        """A view with the axes reversed."""
        return self.transpose()

    def fill(self, value: Any) -> None:
        """Set all values to one number."""
        self[...] = value

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))


def _checked(x: Any) -> Any:
    """Return x itself; raises TypeError as `_operand` does."""
    _operand(x)
    return x


def _into(out: Any, ufunc: np.ufunc, *inputs: Any, **options: Any) -> Any:
    """Write the result of a ufunc to `out`, and return `out`."""
    if not isinstance(out, ndarray):
        raise TypeError("return arrays must be cupy.ndarray")
    compute(ufunc, *map(_checked, inputs), **options, out=out)
    return out


# --- attributes and methods passed on to NumPy ---------------------------------------------------

ATTRIBUTES = ("dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides")
METHODS = (
    "all", "any", "argmax", "argmin", "astype", "clip", "copy", "cumsum", "dot", "flatten", "max",
    "mean", "min", "prod", "ravel", "repeat", "reshape", "round", "squeeze", "std", "sum",
    "swapaxes", "take", "transpose", "var", "view",
)  # fmt: skip
COMPARISONS = {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
    "eq": np.equal, "ne": np.not_equal,
}  # fmt: skip
ARITHMETIC = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.divide,
    "floordiv": np.floor_divide, "mod": np.remainder, "pow": np.power, "matmul": np.matmul,
    "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "lshift": np.left_shift, "rshift": np.right_shift,
}  # fmt: skip


def _attribute(name: str) -> property:
    return property(lambda self: getattr(self._values, name))


def _method(name: str) -> Callable[..., Any]:
    function = getattr(np.ndarray, name)

    def apply(self: ndarray, *arguments: Any, **options: Any) -> Any:
        return compute(function, self, *arguments, **options)

    apply.__wrapped__ = function  # inspect.signature reads it
    return apply


def _comes_first(other: Any) -> bool:
    """Return whether the other operand must handle the operation: its __array_ufunc__ is None."""
    return getattr(type(other), "__array_ufunc__", True) is None


def _unary(ufunc: np.ufunc) -> Callable[[ndarray], ndarray]:
    return lambda self: compute(ufunc, self)


def _binary(ufunc: np.ufunc) -> Callable[[ndarray, Any], ndarray]:
    def apply(self: ndarray, other: Any) -> ndarray:
        return NotImplemented if _comes_first(other) else compute(ufunc, self, _checked(other))

    return apply


def _reflected(ufunc: np.ufunc) -> Callable[[ndarray, Any], ndarray]:
    return lambda self, other: compute(ufunc, _checked(other), self)


def _in_place(ufunc: np.ufunc) -> Callable[[ndarray, Any], ndarray]:
    return lambda self, other: _into(self, ufunc, self, other)


for _name in ATTRIBUTES:
    setattr(ndarray, _name, _attribute(_name))
for _name in METHODS:
    setattr(ndarray, _name, _method(_name))
for _name, _ufunc in (COMPARISONS | ARITHMETIC).items():
    setattr(ndarray, f"__{_name}__", _binary(_ufunc))
for _name, _ufunc in ARITHMETIC.items():
    setattr(ndarray, f"__r{_name}__", _reflected(_ufunc))
    if _name != "matmul":  # x @= y is x = x @ y
        setattr(ndarray, f"__i{_name}__", _in_place(_ufunc))
for _name, _ufunc in {"neg": np.negative, "abs": np.absolute, "invert": np.invert}.items():
    setattr(ndarray, f"__{_name}__", _unary(_ufunc))
