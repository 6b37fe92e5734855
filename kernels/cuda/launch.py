"""Launch kernels: each is compiled once and gets every argument in the size that it reads."""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minddpm.kernels.arrays import Array

FOLDER = Path(__file__).parent
BLOCK = 256  # threads of a block in an elementwise kernel
MAX_BLOCKS = 4096  # of an elementwise kernel: enough to fill any GPU; threads then loop
MAX_ELEMENTS = 2**31 - 1  # of an array, because kernels count elements with an int


def cupy() -> ModuleType:
    """Return the array library, which is already imported: the caller's arrays came from it."""
    return sys.modules["cupy"]


def is_array(x: Any) -> bool:
    """Return whether x is an array on the device."""
    return isinstance(x, cupy().ndarray)


@cache
def _module(library: ModuleType, file: str, options: tuple[str, ...]) -> Any:
    # Pass the text, because RawModule's path= expects a compiled file.
    code = (FOLDER / file).read_text()
    return library.RawModule(code=code, options=(f"-I{FOLDER}", "--std=c++17", *options))


_kernels: dict[tuple[ModuleType, str, str, tuple[str, ...]], Any] = {}


def _kernel(library: ModuleType, file: str, name: str, options: tuple[str, ...]) -> Any:
    key = library, file, name, options
    if key not in _kernels:
        _kernels[key] = _module(library, file, options).get_function(name)
    return _kernels[key]


def compiled_kernels() -> dict[tuple[str, str, tuple[str, ...]], Any]:
    """Return all kernels that were launched, by file, name and options."""
    return {key[1:]: kernel for key, kernel in _kernels.items() if key[0] is cupy()}


Module = tuple[str, tuple[str, ...]]  # a .cu file, and options of the compiler
Note = Callable[[str, tuple[str, ...]], Any]
_noted: list[tuple[dict[Module, None], Note]] = []
Observer = Callable[[str, str, tuple[Any, ...]], AbstractContextManager[Any]]
_observers: list[Observer] = []


@contextmanager
def noted(note: Note = lambda *_: None) -> Iterator[dict[Module, None]]:
    """Within the block, launch nothing: yield the modules that launches need, in order.

    note: called with each of them when it is needed first.
    """
    modules: dict[Module, None] = {}
    _noted.append((modules, note))
    try:
        yield modules
    finally:
        _noted.pop()


def is_noting() -> bool:
    """Return whether launches are only noted, so that no result is computed."""
    return bool(_noted)


def compile_module(file: str, options: tuple[str, ...]) -> None:
    """Compile a .cu file and load it, unless that has been done; from any thread."""
    _module(cupy(), file, options).compile()


@contextmanager
def observed_by(observe: Observer) -> Iterator[None]:
    """Within the block, launch each kernel within the context observe(file, name, arguments)."""
    _observers.append(observe)
    try:
        yield
    finally:
        _observers.pop()


def launch(
    file: str,
    name: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    *arguments: Any,
    options: tuple[str, ...] = (),
) -> None:
    """Run a kernel of kernels/cuda/<file>, compiled on first use.

    arguments: arrays (None is a null pointer), Python integers for int and floats for float
    parameters, NumPy scalars for any other type, a NumPy array with one structure to pass by value.
    options: of the compiler. Raises ValueError for an array that is not C-contiguous or has more
    than MAX_ELEMENTS elements.
    """
    if _noted:
        modules, note = _noted[-1]
        if (file, options) not in modules:
            modules[file, options] = None
            note(file, options)
        return
    kernel = _kernel(cupy(), file, name, options)
    with _observers[-1](file, name, arguments) if _observers else nullcontext():
        kernel(grid, block, tuple(map(_argument, arguments)))


def each(file: str, name: str, n: int, *arguments: Any) -> None:
    """Run a kernel on n elements: each thread takes one, or several that are one grid apart."""
    launch(file, name, (min(blocks(n, BLOCK), MAX_BLOCKS),), (BLOCK,), *arguments)


def empty(*shapes: int | tuple[int, ...]) -> tuple[Array, ...]:
    """Return an uninitialised float32 array of each shape."""
    return tuple(cupy().empty(shape, "float32") for shape in shapes)


def table(field: str, kind: np.dtype, count: int, lines: Iterable[tuple[int, ...]]) -> np.ndarray:
    """Return up to `count` lines as struct { kind field[count]; }, to be passed by value."""
    lines = list(lines)
    structure = np.zeros(1, [(field, kind, count)])
    structure[field][0, : len(lines)] = lines
    return structure


def blocks(n: int, size: int) -> int:
    """Return how many blocks of this size hold n elements, at least one."""
    return max(1, -(-n // size))


def _argument(x: Any) -> Any:
    """Return x in the size that the kernel reads: CuPy would pass a Python float as 8 bytes."""
    if x is None:
        return np.uint64(0)
    if isinstance(x, np.generic):  # before Python's types: np.float64 is one of them
        return x
    if isinstance(x, (bool, int)):
        return np.int32(x)
    if isinstance(x, float):
        return np.float32(x)
    if is_array(x) and (not x.flags.c_contiguous or x.size > MAX_ELEMENTS):
        raise ValueError(
            f"a raw kernel cannot take an array of shape {x.shape} and strides {x.strides}: pass a "
            f"C-contiguous one of at most {MAX_ELEMENTS} elements."
        )
    return x


def aligned(*arrays: Array | None) -> bool:
    """Return whether vectors of four numbers may be read from each array."""
    return all(x is None or x.data.ptr % 16 == 0 for x in arrays)


_counters: dict[ModuleType, list[Array]] = {}


def counters(n: int) -> Array:
    """Return at least n counters that are zero; every kernel leaves them zero (last_block.cuh)."""
    library = cupy()
    # Arrays that became too small are kept, because a recorded graph still uses them.
    made = _counters.setdefault(library, [])
    if not made or made[-1].size < n:
        made.append(library.zeros(max(n, 1024), "uint32"))
    return made[-1]
