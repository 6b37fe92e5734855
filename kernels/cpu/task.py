"""A task: one function that every thread runs with its own number, compiled on its first call.

Numba's parallel=True would compile each kernel twice, with and without the loop over threads, and
its optimiser goes over everything that a function calls once more for each. So there is one
parallel loop in all, `_launch`, which calls a compiled function by its address:

    @task
    def scale(t, threads, at):                   # t = 0 .. threads - 1, each in a thread of its own
        x, n, factor = integers(at, 3)           # the numbers that the call gave
        ...

    scale(threads, address(x), x.size, factor)   # from Python; arrays come as addresses

Numbers are int64; a Python float travels as its bits, and as_float makes it one again.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, prange, types
from numba.extending import intrinsic

from minddpm.kernels.cpu.cache import compiling, own_cache
from minddpm.kernels.cpu.vector import I64


@intrinsic(prefer_literal=True)
def integers(typing_context, at, n):
    """The n int64 at an address, as a tuple; n is a constant."""
    count = n.literal_value
    result = types.UniTuple(types.int64, count)

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], I64.as_pointer())
        values = [
            builder.load(builder.gep(pointer, [ir.Constant(I64, i)]), align=8) for i in range(count)
        ]
        return context.make_tuple(builder, result, values)

    return result(types.int64, n), codegen


@intrinsic
def as_float(typing_context, bits):
    """The float64 with these bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def _call(typing_context, function, t, threads, at):
    """Call the compiled function at an address with (t, threads, at)."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [I64] * 3)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@njit(parallel=True, nogil=True, cache=True)
def _launch(function, threads, at):
    for t in prange(threads):
        _call(function, np.int64(t), threads, at)


def _flat(numbers: tuple) -> Iterator[int]:
    for x in numbers:
        if isinstance(x, tuple):
            yield from _flat(x)
        else:
            yield int(np.float64(x).view(np.int64)) if isinstance(x, float) else x


class Task:
    """See the head of this file."""

    def __init__(self, function: Callable[[int, int, int], None]):
        self.function, self._compiled = function, None

    def __call__(self, threads: int, *numbers: Any) -> None:
        if self._compiled is None:
            with compiling(self.function), own_cache():
                signature = types.void(types.int64, types.int64, types.int64)
                self._compiled = cfunc(signature, cache=True)(self.function)
        arguments = np.array(list(_flat(numbers)), np.int64)
        _launch(self._compiled.address, threads, arguments.__array_interface__["data"][0])


task = Task
