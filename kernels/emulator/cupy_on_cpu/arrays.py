"""The array class of the stand-in for CuPy: a NumPy array that refuses to be taken for one.

Its values lie in the emulator's guarded memory, and NumPy computes on them. What CuPy refuses, this
class refuses too: nothing goes to the host or comes from there unless the code says so. What
costs time on a GPU is counted (cupy_state.py). Where CuPy is lenient and NumPy is not, this is not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np

from minddpm.kernels.emulator import memory
from minddpm.kernels.emulator.cupy_on_cpu import memory as cupy_memory
from minddpm.kernels.emulator.cupy_on_cpu.state import (
    copy_from_host,
    launch_array_code,
    stats,
    synchronise,
)

# What NumPy's functions take and CuPy's do not, or under another name.
UFUNC_OPTIONS = {"out", "dtype", "casting"}
NOT_IN_CUPY = {"where", "initial", "mean", "correction", "subok", "device", "like"}
NOT_IN_THIS = {
    np.clip: {"min", "max"}, np.stack: {"arrays"},
    np.reshape: {"shape", "copy"}, np.ndarray.reshape: {"copy"},
    np.take: {"mode"}, np.ndarray.take: {"mode"}, np.lib.stride_tricks.as_strided: {"writeable"},
}  # fmt: skip


def refuses(function: Callable[..., Any], option: str) -> bool:
    """Whether CuPy's function of this name does not take an option that NumPy's takes."""
    if isinstance(function, np.ufunc):
        return option not in UFUNC_OPTIONS
    return option in NOT_IN_CUPY or option in NOT_IN_THIS.get(function, ())


def compute(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """A NumPy function of stand-ins, as a stand-in."""
    for name in options:
        if refuses(function, name):
            raise TypeError(f"cupy's {function.__name__} takes no {name}")
    if options.get("out") is not None:
        launch_array_code()
    options = {name: unwrap(value) for name, value in options.items()}
    return wrap(function(*map(unwrap, arguments), **options))


def unwrap(x: Any) -> Any:
    """The NumPy array behind a stand-in, also within a list; other arguments as they are."""
    if isinstance(x, ndarray):
        return x._values
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)}")
    return type(x)(map(unwrap, x)) if type(x) in (list, tuple) else x


def wrap(result: Any) -> Any:
    """A stand-in for each result that is an array or a number: with CuPy a sum is an array, too."""
    if isinstance(result, (list, tuple)):
        return type(result)(map(wrap, result))
    if not isinstance(result, (np.ndarray, np.generic, bool)):  # array_equal gives a bool
        return result
    if not memory.holds(result):
        launch_array_code()
    return place(np.asarray(result))


def place(values: np.ndarray) -> ndarray:
    """The values on the device: themselves if they lie there, else a copy."""
    if values.dtype.kind not in "biufc":
        raise ValueError(f"Unsupported dtype {values.dtype}")
    x = object.__new__(ndarray)
    x._values = values if memory.holds(values) else _on_device(values)
    return x


def _on_device(values: np.ndarray) -> np.ndarray:
    """A copy with its axes in the same order in memory: a transposed result stays transposed."""
    if values.flags.c_contiguous:
        return cupy_memory.array(values)
    order = sorted(range(values.ndim), key=lambda axis: -values.strides[axis])
    return cupy_memory.array(values.transpose(order)).transpose(np.argsort(order))


def _operand(x: Any) -> Any:
    """What may stand beside an array in arithmetic or be assigned to it: an array or a number."""
    if isinstance(x, ndarray):
        return x._values
    if isinstance(x, (bool, int, float, complex, np.generic)):
        return x
    raise TypeError(f"Unsupported type {type(x)}")


def _index(key: Any) -> Any:
    """An index with NumPy arrays in place of stand-ins; CuPy copies those of the host itself."""
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

    # --- to the host, and from there -------------------------------------------------------------

    def get(self) -> np.ndarray:
        """A copy on the host."""
        synchronise("get")
        stats.to_host += 1
        return self._values.copy()

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        """Take the values of a NumPy array of the same shape and type.

        From pinned memory that is a copy for which nobody waits (HostCopies).
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
        """The only value, as a Python number."""
        synchronise("item")
        stats.to_host += 1
        return self._values.item()

    def tolist(self) -> Any:
        """The values as Python's lists of numbers."""
        return self.get().tolist()

    def __bool__(self) -> bool:
        synchronise("bool")
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
        if _is_mask(key):
            synchronise("a mask, whose number of places decides the shape,")
        return wrap(self._values[_index(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        value = _operand(value)
        launch_array_code()
        self._values[_index(key)] = value

    @property
    def data(self) -> SimpleNamespace:
        """Where the first value lies, as .ptr."""
        return SimpleNamespace(ptr=self._values.ctypes.data)

    @property
    def flags(self) -> SimpleNamespace:
        """How the values lie in memory; those of CuPy cannot be written to, either."""
        flags = self._values.flags
        return SimpleNamespace(
            c_contiguous=flags.c_contiguous,
            f_contiguous=flags.f_contiguous,
            owndata=flags.owndata,
        )

    @property
    def T(self) -> ndarray:  # noqa: N802
        """With the axes the other way round."""
        return self.transpose()

    def fill(self, value: Any) -> None:
        """Set all values to one number."""
        self[...] = value

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator[ndarray]:
        return (self[i] for i in range(len(self)))


def _checked(x: Any) -> Any:
    _operand(x)
    return x


def _into(out: Any, ufunc: np.ufunc, *inputs: Any, **options: Any) -> Any:
    """The result of a ufunc, written to `out`."""
    if not isinstance(out, ndarray):
        raise TypeError("return arrays must be cupy.ndarray")
    compute(ufunc, *map(_checked, inputs), **options, out=out)
    return out


# --- what NumPy has and the stand-in only hands on -----------------------------------------------

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

    apply.__wrapped__ = function  # whose signature it has
    return apply


def _comes_first(other: Any) -> bool:
    """Whether the other operand's class forbids that array libraries compute with it."""
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
