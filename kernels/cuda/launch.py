"""How a kernel is launched: compiled once, every argument in the size that the kernel reads."""

import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda.analysis.compile import in_wheels

FOLDER = Path(__file__).parent
BLOCK = 256  # threads of a block that works element by element
MOST_BLOCKS = 4096  # of them: enough to fill any GPU; each thread then takes several elements
MOST = 2**31 - 1  # elements of an array, which kernels count with an int


def cupy() -> ModuleType:
    """The array library; never imported here, as arrays that came from it are there before."""
    return sys.modules["cupy"]


def is_array(x: Any) -> bool:
    """Whether x is an array of the device."""
    return isinstance(x, cupy().ndarray)


@cache
def _module(library: ModuleType, file: str, options: tuple[str, ...]) -> Any:
    # As text: what RawModule takes as path= is a compiled file.
    code = (FOLDER / file).read_text()
    options = (f"-I{FOLDER}", *_of_wheels(code), "--std=c++17", *options)
    return library.RawModule(code=code, options=options)


def _of_wheels(code: str) -> tuple[str, ...]:
    """Where crt/mma.h is, if in a wheel: CuPy finds mma.h, but not always what that includes."""
    found = in_wheels("crt/mma.h") if "#include <mma.h>" in code else None
    return (f"-I{found.parent.parent}",) if found else ()


@cache
def _kernel(library: ModuleType, file: str, name: str, options: tuple[str, ...]) -> Any:
    return _module(library, file, options).get_function(name)


def launch(
    file: str,
    name: str,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    *arguments: Any,
    shared: int = 0,
    options: tuple[str, ...] = (),
) -> None:
    """Run a kernel of kernels/cuda/<file>, compiled on first use.

    arguments: arrays (None is a null pointer), integers for int and floats for float parameters;
    NumPy scalars keep their type. shared: bytes of dynamic shared memory. options: of the compiler.
    Raises ValueError for an array that is not C-contiguous or has too many elements.
    """
    kernel = _kernel(cupy(), file, name, options)
    kernel(grid, block, tuple(map(_argument, arguments)), shared_mem=shared)


def each(file: str, name: str, n: int, *arguments: Any) -> None:
    """Run a kernel that works on n elements, one for each thread at a time."""
    launch(file, name, (min(blocks(n, BLOCK), MOST_BLOCKS),), (BLOCK,), *arguments)


def blocks(n: int, size: int) -> int:
    """How many blocks of this size hold n, at least one."""
    return max(1, -(-n // size))


def _argument(x: Any) -> Any:
    """What CuPy passes on as it is: a Python float would be 8 bytes where a kernel reads 4."""
    if x is None:
        return np.uint64(0)
    if isinstance(x, (bool, int)):
        return np.int32(x)
    if isinstance(x, float):
        return np.float32(x)
    if is_array(x) and (not x.flags.c_contiguous or x.size > MOST):
        raise ValueError(
            f"an array of shape {x.shape} and strides {x.strides} for a raw kernel, which "
            "counts with an int and knows nothing of strides"
        )
    return x


def aligned(*arrays: Array | None) -> bool:
    """Whether vectors of four numbers may be read from each of them."""
    return all(x is None or x.data.ptr % 16 == 0 for x in arrays)


_counters: dict[ModuleType, list[Array]] = {}


def counters(n: int) -> Array:
    """At least n counters that are zero; every kernel leaves them so (last_block.cuh)."""
    library = cupy()
    # All that there ever were, as a recorded graph goes on with those of its time.
    made = _counters.setdefault(library, [])
    if not made or made[-1].size < n:
        made.append(library.zeros(max(n, 1024), "uint32"))
    return made[-1]
