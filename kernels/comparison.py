"""Is a replayed training step the eager one? The comparison that both recorders make."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from minddpm.kernels.arrays import Array, array_module

OTHER = np.float32(2.0**-13)


def agree(
    runs: Sequence[Callable[[int, Sequence[Any]], Any]],
    inputs: Sequence[Sequence[Array | None]],
    state: Sequence[Array],
) -> bool:
    """Return whether all runs of a step give the same bits for other inputs and other weights.

    runs: each is called with 0, 1, ... and the inputs of that function, and returns its output.
    inputs: of each function, as they were recorded; others are made of them. Inputs that the
    functions refuse show nothing: the answer is False. state: the arrays that a step changes; they
    have their values again at the end, also after an exception.
    """
    others = [tuple(map(changed, xs)) for xs in inputs]
    before = [array.copy() for array in state]
    results = []
    try:
        for run in runs:
            # All weights change, zeros too, by about as much as in a step: another Python
            # thread may be sampling from the model.
            for array, value in zip(state, before, strict=True):
                array_module(array).add(value, OTHER, out=array)
            # Checksums, because the arrays of a large model would need its memory once more.
            sums = [_checksum(run(i, xs)) for i, xs in enumerate(others)]
            results.append((sums, _checksum(tuple(state))))
    except Exception:
        return False
    finally:
        for array, value in zip(state, before, strict=True):
            array[...] = value
    return all(result == results[0] for result in results)


def changed(x: Array | None) -> Array | None:
    """Return other numbers of the same kind: 3/4 x, or for integers their neighbours."""
    if x is None:
        return None
    if x.dtype.kind == "f":
        return (x * x.dtype.type(0.75)).reshape(x.shape)
    return array_module(x).where(x > 0, x - 1, x + 1).astype(x.dtype)


def _checksum(output: Any) -> bytes:
    """Return a checksum of an array, a tuple of arrays, or None."""
    checksum = hashlib.blake2b()
    for x in output if isinstance(output, tuple) else (output,):
        if x is not None:
            host = x if isinstance(x, np.ndarray) else array_module(x).asnumpy(x)
            checksum.update(np.ascontiguousarray(host))
    return checksum.digest()
