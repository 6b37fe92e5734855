"""Replay on a GPU: a function's kernels are recorded once as a CUDA graph and relaunched with it.

A graph repeats its kernels with the recorded arguments, including addresses. So each call copies
its inputs into the recorded input arrays, and the result out of the recorded output arrays.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np

from minddpm.kernels.arrays import Array
from minddpm.kernels.comparison import agree
from minddpm.kernels.cuda.launch import cupy, is_array, is_noting
from minddpm.kernels.cuda.recorder import recorded

Function = Callable[..., Any]
Inputs = Sequence[Any]


class _Device:
    """A stream that can record, and a pool whose memory only the recorded functions use.

    Arrays made within a function are freed at its end, but the graph still writes to their memory.
    A pool of its own keeps that memory from other users. The first call leaves all the memory
    needed in the pool, so recording allocates nothing on the device.
    """

    def __init__(self) -> None:
        cuda = cupy().cuda
        self.stream = cuda.Stream(non_blocking=True)  # the null stream cannot record
        self.pool = cuda.MemoryPool()

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Within the block, work is ordered as if it ran on the current stream; asynchronous."""
        cuda = cupy().cuda
        current = cuda.get_current_stream()
        self.stream.wait_event(current.record())
        with self.stream, cuda.using_allocator(self.pool.malloc):
            yield
        current.wait_event(self.stream.record())


class _Call:
    """A function with the arrays that it reads and writes in every call, and its graph.

    step: of its random draws, if it draws. It shares one array with all inputs that are on the
    host, so that one copy renews them; `step_at` is where the kernels read it.
    """

    def __init__(self, device: _Device, inputs: Inputs, step: int | None = None):
        self._device, self._output, self.graph = device, None, None
        self._hosts = cupy().asarray(_packed(step, inputs))
        self.step_at = None if step is None else self._hosts[:8].view("uint64")
        self.inputs, at = [], 0 if step is None else 8
        for x in inputs:
            if x is None or is_array(x):
                self.inputs.append(x if x is None else x.copy())
            else:
                x = _host_array(x)
                own = self._hosts[at : at + x.nbytes].view(x.dtype).reshape(x.shape)
                self.inputs.append(own)
                at += _padded(x.nbytes)

    def copy_in(self, inputs: Inputs, step: int | None = None) -> None:
        """Copy other inputs into the recorded arrays."""
        if self._hosts.size:
            self._hosts[...] = cupy().asarray(_packed(step, inputs))
        for own, x in zip(self.inputs, inputs, strict=True):
            if is_array(x):
                own[...] = x

    def run(self, function: Function, step: int | None = None) -> Any:
        """Return function(*inputs), called eagerly."""
        with self._device.entered(), recorded(step, self.step_at):
            return function(*self.inputs)

    def record(self, function: Function, step: int | None = None) -> None:
        """Record the kernels of function(*inputs); they do not run."""
        stream = self._device.stream
        with self._device.entered():
            stream.begin_capture()
            try:
                with recorded(step, self.step_at):
                    self._output = function(*self.inputs)
            except BaseException:
                with suppress(Exception):  # it fails after an error, too, and would hide the first
                    stream.end_capture()
                raise
            self.graph = stream.end_capture()

    def launch(self) -> Any:
        """Launch the graph; return copies of its results."""
        with self._device.entered():
            self.graph.launch(self._device.stream)
        return _copied(self._output)


def _packed(step: int | None, inputs: Inputs) -> np.ndarray:
    """Return the step and the inputs on the host as bytes; each begins at a multiple of 8."""
    hosts = [] if step is None else [np.uint64(step)]
    hosts += [x for x in inputs if x is not None and not is_array(x)]
    return np.frombuffer(b"".join(map(_padded_bytes, hosts)), np.uint8)


def _padded_bytes(x: Any) -> bytes:
    data = _host_array(x).tobytes()
    return data.ljust(_padded(len(data)), b"\0")


def _host_array(x: np.ndarray | float) -> np.ndarray:
    """Return a number as a 0-d float64 array, as on the CPU."""
    return x if hasattr(x, "dtype") else np.asarray(x, np.float64)


def _padded(size: int) -> int:
    return -(-size // 8) * 8


def _copied(output: Any) -> Any:
    """Return copies of a function's output: the next launch writes to its memory."""
    if isinstance(output, tuple):
        return tuple(map(_copied, output))
    if output is None:
        return None
    copy = cupy().empty_like(output)
    copy[...] = output  # a copy of bytes; .copy() would launch a kernel
    return copy


class replayed:  # noqa: N801 (called as a function, as in every kernel set)
    """A function that launches the same kernels on the same memory at every call.

    function: maps arrays to one array, as kernels/reference's `replayed` describes it. The first
    call runs it, which compiles its kernels; the second records it and launches the graph; each
    further call only launches the graph.
    """

    def __init__(self, function: Callable[..., Array]):
        self._function, self._device = function, _Device()
        self._call: _Call | None = None

    def __call__(self, *inputs: Array) -> Array:
        """Return function(*inputs), ordered as if it ran on the current stream; asynchronous."""
        if is_noting():  # the first call has yet to come
            return self._function(*inputs)
        if self._call is None:
            self._call = _Call(self._device, inputs)
            return _copied(self._call.run(self._function))
        self._call.copy_in(inputs)
        if self._call.graph is None:
            self._call.record(self._function)
        return self._call.launch()


class replayed_step:  # noqa: N801
    """The caller of a training step's functions: eager at first, then recorded, then replayed.

    The first replay is compared with an eager call of other inputs, because what the host computes
    between the kernels is not recorded. A step whose replay differs stays eager, and one whose
    recording fails, since the host reads a value in it. This object keeps no function: a trainer
    that passes its own methods would never be freed.
    """

    def __init__(self, count: int, state: tuple[Array, ...]):
        self._count, self._state, self._device = count, state, _Device()
        self._calls: list[_Call] = []
        self._recorded: list[tuple[Function, Inputs]] = []  # while they are compared
        self._run = replayed_step._first  # unbound: a method would keep this object

    def __call__(self, i: int, function: Function, step: int, *inputs: Any) -> Any:
        if i == 0:
            self._recorded = []  # of a step that ended before its last function
        return self._run(self, i, function, step, inputs)

    def _first(self, i: int, function: Function, step: int, inputs: Inputs) -> Any:
        self._calls = [*self._calls[:i], _Call(self._device, inputs, step)]
        output = self._calls[i].run(partial(function, step), step)
        if i == self._count - 1 and not is_noting():
            self._run = replayed_step._second
        return _copied(output)

    def _second(self, i: int, function: Function, step: int, inputs: Inputs) -> Any:
        self._calls[i].copy_in(inputs, step)
        try:
            self._calls[i].record(partial(function, step), step)
        except Exception:
            self._stay_eager()
            if i > 0:
                raise  # what the functions before it left cannot be computed again
            return function(step, *inputs)  # it raises again, unless recording is the problem
        output = self._calls[i].launch()
        arrays = [x if x is None or is_array(x) else _host_array(x) for x in inputs]
        self._recorded.append((function, arrays))
        if i == self._count - 1:
            if self._is_right(step + 1):
                self._run = replayed_step._replay
            else:
                self._stay_eager()
            self._recorded = []
        return output

    def _stay_eager(self) -> None:
        self._run, self._calls, self._device = replayed_step._eager, [], None

    def _eager(self, i: int, function: Function, step: int, inputs: Inputs) -> Any:
        return function(step, *inputs)

    def _replay(self, i: int, function: Function, step: int, inputs: Inputs) -> Any:
        self._calls[i].copy_in(inputs, step)
        return self._calls[i].launch()

    def _is_right(self, step: int) -> bool:
        """Return whether a replay with other inputs and other weights does what eager calls do."""
        functions, inputs = zip(*self._recorded, strict=True)

        def repeat(i: int, xs: Inputs) -> Any:
            self._calls[i].copy_in(xs, step)
            return self._calls[i].run(partial(functions[i], step), step)

        def replay(i: int, xs: Inputs) -> Any:
            return self._replay(i, functions[i], step, xs)

        return agree((repeat, replay), inputs, self._state)
