"""Replay on a GPU: a function's kernels as one CUDA graph, recorded once, repeated by one launch.

A graph repeats its kernels with the very arguments that they were recorded with. So the inputs of
every call are copied into arrays that stay where they are, and the result is copied out of one.
"""

from collections.abc import Callable
from typing import Any

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda.launch import cupy


class replayed:  # noqa: N801 (called as a function, as in every kernel set)
    """Return a function that launches the same kernels on the same memory at every call.

    function: takes and returns arrays. Its first call runs it, which compiles what was not compiled
    yet; the second records it; from then on the host has one launch to make.
    """

    def __init__(self, function: Callable[..., Array]):
        cuda = cupy().cuda
        self._function = function
        self._stream = cuda.Stream(non_blocking=True)  # the null stream cannot record
        # Arrays made within the function are freed at its end, but the graph goes on writing to
        # their memory: it must not be given to anyone else, so it comes from a pool of its own.
        # The first call leaves all that is needed in the pool, and recording allocates nothing.
        self._pool = cuda.MemoryPool()
        self._inputs: tuple[Array, ...] | None = None
        self._output: Array | None = None
        self._graph: Any = None

    def __call__(self, *inputs: Array) -> Array:
        """Run after all that the current stream was given, and before what it is given next."""
        cuda = cupy().cuda
        current = cuda.get_current_stream()
        first = self._inputs is None
        if first:
            self._inputs = tuple(x.copy() for x in inputs)
        else:
            self._take(inputs)
        self._stream.wait_event(current.record())
        with self._stream, cuda.using_allocator(self._pool.malloc):
            if first:
                output = self._function(*self._inputs)
            else:
                self._graph = self._graph or self._record()
                self._graph.launch(self._stream)
                output = self._output
        current.wait_event(self._stream.record())
        return output.copy()

    def _take(self, inputs: tuple[Array, ...]) -> None:
        for own, x in zip(self._inputs, inputs, strict=True):
            own[...] = x

    def _record(self) -> Any:
        self._stream.begin_capture()
        try:
            self._output = self._function(*self._inputs)
        finally:
            graph = self._stream.end_capture()
        return graph
