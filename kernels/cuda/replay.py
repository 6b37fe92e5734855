"""Replay on a GPU: a function's kernels are recorded once as a CUDA graph and relaunched with it.

A graph repeats its kernels with the recorded arguments, including addresses. So each call copies
its inputs into the recorded input arrays, and the result out of the recorded output array.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

from minddpm.kernels.arrays import Array
from minddpm.kernels.cuda.launch import cupy


class replayed:  # noqa: N801 (called as a function, as in every kernel set)
    """A function that launches the same kernels on the same memory at every call.

    function: maps arrays to one array, as kernels/reference's `replayed` describes it. The first
    call runs it, which compiles its kernels; the second records it and launches the graph; each
    further call only launches the graph.
    """

    def __init__(self, function: Callable[..., Array]):
        cuda = cupy().cuda
        self._function = function
        self._stream = cuda.Stream(non_blocking=True)  # the null stream cannot record
        # Arrays made within the function are freed at its end, but the graph still writes to
        # their memory. A separate pool keeps that memory from other users. The first call leaves
        # all the memory needed in the pool, so recording allocates nothing on the device.
        self._pool = cuda.MemoryPool()
        self._inputs: tuple[Array, ...] | None = None
        self._output: Array | None = None
        self._graph: Any = None

    def __call__(self, *inputs: Array) -> Array:
        """Return function(*inputs), ordered as if it ran on the current stream; asynchronous."""
        cuda = cupy().cuda
        current = cuda.get_current_stream()
        first = self._inputs is None
        if first:
            self._inputs = tuple(x.copy() for x in inputs)
        else:
            self._copy_in(inputs)
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

    def _copy_in(self, inputs: tuple[Array, ...]) -> None:
        for own, x in zip(self._inputs, inputs, strict=True):
            own[...] = x

    def _record(self) -> Any:
        self._stream.begin_capture()
        try:
            self._output = self._function(*self._inputs)
        except BaseException:
            with suppress(Exception):  # it fails after an error, too, and would hide the first one
                self._stream.end_capture()
            raise
        return self._stream.end_capture()
