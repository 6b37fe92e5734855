"""A task: a function that every thread runs with its own thread number t (not a timestep).

Numba's parallel=True would compile each kernel twice, with and without the loop over threads, and
each time optimise everything that the kernel calls. So there is a single parallel loop, `_launch`,
which calls a task, compiled on its first call, by its address:

    @task
    def scale(t, threads, at):                   # t = 0 .. threads - 1, each in its own thread
        x, n, factor = integers(at, 3)           # the arguments of the call, in their order
        ...

    scale(threads, address(x), x.size, factor)   # from Python; arrays come as addresses

All arguments are int64. The first line of a task unpacks them in call order. A float is passed as
its bits, and as_float converts it back. Each Python thread has one argument buffer, because it
calls one task at a time.
"""

import ctypes
import struct
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, prange, types
from numba.extending import intrinsic

from minddpm.kernels.cpu import threads as kernel_threads
from minddpm.kernels.cpu.cache import compiling, own_cache
from minddpm.kernels.cpu.vector.instructions import I64


@intrinsic(prefer_literal=True)
def integers(typing_context, at, n):
    """Return the n int64 values at address `at` as a tuple; n must be a compile-time constant."""
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
    """Reinterpret an int64 as float64."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return types.float64(types.int64), codegen


@intrinsic
def _call(typing_context, function, t, threads, at):
    """Call the compiled function at address `function` with the arguments (t, threads, at)."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [I64] * 3)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@njit(parallel=True, nogil=True, cache=True)
def _launch(function, threads, at):
    for t in prange(threads):
        _call(function, np.int64(t), threads, at)


@njit(nogil=True, cache=True)
def _launch_alone(function, threads, at):
    for t in range(threads):
        _call(function, t, threads, at)


def bits(x: float) -> int:
    """Reinterpret the float64 x as int64."""
    return struct.unpack("q", struct.pack("d", x))[0]


class _Arguments(threading.local):
    """The argument buffer of this Python thread."""

    def __init__(self) -> None:
        self.buffer = ctypes.create_string_buffer(8 * 256)
        self.address = ctypes.addressof(self.buffer)


_arguments = _Arguments()
_one_compilation = threading.Lock()  # own_cache changes Numba's configuration


class Task:
    """A compiled function, called as task(threads, *numbers). See the module docstring."""

    def __init__(self, function: Callable[[int, int, int], None]):
        self.function, self._compiled = function, None

    def __call__(self, threads: int, *numbers: Any) -> None:
        if self._compiled is None:
            self._compile()
        struct.pack_into(f"{len(numbers)}q", _arguments.buffer, 0, *numbers)
        arguments = self._compiled.address, threads, _arguments.address
        kernel_threads.run(_launch, *arguments, alone=_launch_alone)

    def _compile(self) -> None:
        with _one_compilation, compiling(self.function), own_cache():
            signature = types.void(types.int64, types.int64, types.int64)
            self._compiled = cfunc(signature, cache=True)(self.function)


task = Task
