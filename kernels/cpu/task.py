"""A task: a function that is called once for each of its pieces, which the threads share out.

    @task
    def scale(piece, pieces, worker, at):        # piece = 0 .. pieces - 1
        x, n, factor = integers(at, 3)           # the arguments of the call, in their order
        for i in items(n, piece, pieces):        # this piece's share of the work
            ...

    scale(pieces, address(x), x.size, factor)    # from Python; arrays come as addresses

The result may depend on the number of pieces, but not on who runs a piece, or when. worker = 0 ..
threads - 1 is the thread that runs it, for the row of working memory that the piece may use.

Numba's parallel=True would compile each kernel twice, with and without a loop over threads, and
each time optimise everything that the kernel calls. A task is compiled once, on its first call, and
threads.run calls it by its address.

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
from numba import cfunc, njit, types
from numba.extending import intrinsic

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.cache import compiling, own_cache
from minddpm.kernels.cpu.pool import MOST
from minddpm.kernels.cpu.recorder import here
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


@njit(inline="always")
def as_float32(bits):
    """Return the float64 with these bits, rounded to float32."""
    return np.float32(as_float(bits))


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
    """A compiled function, called as task(pieces, *numbers). See the module docstring."""

    def __init__(self, function: Callable[[int, int, int, int], None]):
        self.function, self._compiled, self._address = function, None, 0

    def __call__(self, pieces: int, *numbers: Any) -> None:
        if pieces > MOST:  # the pool would wait for ever
            raise ValueError(f"a task of {pieces} pieces: choose at most {MOST}.")
        if not self._address:
            self._compile()
        recorder = here.recorder
        if recorder is not None:
            recorder.add(self._address, pieces, numbers)
        struct.pack_into(f"{len(numbers)}q", _arguments.buffer, 0, *numbers)
        threads.run(self._address, pieces, _arguments.address)

    def _compile(self) -> None:
        with _one_compilation, compiling(self.function), own_cache():
            signature = types.void(*[types.int64] * 4)
            self._compiled = cfunc(signature, cache=True)(self.function)
            self._address = self._compiled.address


task = Task
