"""A launch as text, in CUDA's notation: copy<<<2, 64>>>([1024], [1024], 1024).

[n] is an array of n numbers, [3, 5] one of 3 x 5. The arrays of a launch that is read from a text
have normal random numbers, those of integers zeros. 0 is a null pointer.
"""

import ast
import re
from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np

from minddpm.errors import InputError
from minddpm.kernels.emulator.launch import Library
from minddpm.kernels.emulator.memory import array as device_array

_LAUNCH = re.compile(r"\s*(\w+)\s*<<<(.*)>>>\s*\((.*)\)\s*;?\s*", re.S)


def run(library: Library, text: str) -> None:
    """Make the launch that is written in this text.

    Raises InputError if it cannot be read, EmulatorError if the kernel does something invalid.
    """
    found = _LAUNCH.fullmatch(text)
    try:
        sizes = ast.literal_eval(f"({found[2]},)")
        values = ast.literal_eval(f"[{found[3]}]")
        grid, block, shared = (*sizes, 0) if len(sizes) == 2 else sizes
        grid, block = (tuple(map(index, _sizes(n))) for n in (grid, block))
    except (SyntaxError, ValueError, TypeError):
        raise InputError(
            f"{text!r} is no launch: write it as copy<<<2, 64>>>([1024], [1024], 1024)."
        ) from None
    parameters = library.parameters.get(found[1], [])
    rng = np.random.default_rng(0)
    arguments = [_argument(*pair, rng) for pair in zip(values, parameters, strict=False)]
    arguments += values[len(parameters) :]  # launch() reports it if there are too many, or too few
    library.launch(found[1], grid, block, tuple(arguments), shared=shared)


def written(name: str, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any]) -> str:
    """Return the text of a launch."""
    sizes = ", ".join(str(n[0]) if len(n) == 1 else str(tuple(n)) for n in (grid, block))
    texts = (str(list(a.shape)) if isinstance(a, np.ndarray) else str(a) for a in arguments)
    return f"{name}<<<{sizes}>>>({', '.join(texts)})"


def _sizes(of: int | tuple[int, ...]) -> tuple[int, ...]:
    return of if isinstance(of, tuple) else (of,)


def _argument(value: Any, parameter: str, rng: np.random.Generator) -> Any:
    """Return a value of the text as the kernel's parameter (launch.py) needs it."""
    form, size = parameter[0], int(parameter[2:])
    if form == "V" or size > 8:
        raise InputError("a structure cannot be written as text: run a Python program instead.")
    dtype = np.dtype(parameter[1:])
    if isinstance(value, list) and form == "P" and all(isinstance(n, int) for n in value):
        numbers = rng.standard_normal(value) if dtype.kind == "f" else np.zeros(value)
        return device_array(numbers.astype(dtype))
    if value == 0 and form == "P":
        return np.uint64(0)
    if form == "S" and isinstance(value, (int, float) if dtype.kind == "f" else int):
        return dtype.type(value)
    wanted = f"an array of {dtype}, written as [n]" if form == "P" else f"a number, {dtype}"
    raise InputError(f"{value!r} is given where the kernel takes {wanted}.")
