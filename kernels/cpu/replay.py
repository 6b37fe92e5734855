"""Replay on the CPU: a function's tasks are recorded once, and one native call runs all of them.

A model of 100 operations calls 100 tasks, and with few images Python takes as long between them as
the kernels themselves. But for one shape of its inputs a model always runs the same tasks with the
same arguments, if its arrays are in the same memory. So the calls of a replayed function are:

    first    eager; when each array was made and freed is noted, and then planned where it can be
    second   eager, in the planned memory; every task is recorded: its address, pieces, arguments
    others   the inputs are copied into the recorded inputs, one call runs the list, and the result
             is copied out of the recorded one

It is the twin of the CUDA graph (kernels/cuda/replay.py), with one difference. A graph records all
that runs on the GPU; here NumPy's own work between the tasks would not be recorded, and its results
would stay those of the second call. So a replay is compared with an eager call of other inputs
first, bit by bit: a function whose replay differs stays eager.

In sampling (replayed) weights must be constant, because arrays derived from them are not computed
again: outside of constant_weights() every call is eager. In a training step (replayed_step) the
tasks derive them from the weights every time.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minddpm.kernels.comparison import agree, changed
from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.constant_weights import Derived, current
from minddpm.kernels.cpu.philox import key
from minddpm.kernels.cpu.record import Inputs, Lifetimes, Record
from minddpm.kernels.cpu.recorder import here, recorded_by

Arrays = tuple[np.ndarray, ...]
Function = Callable[..., Any]


class _Calls(threading.local):
    """What this Python thread knows of its calls with these weights and this number of threads."""

    weights: Derived | None = None
    count = 0
    first: tuple[Lifetimes, Arrays, np.ndarray] | None = None
    record: Record | None = None
    eager = False


class replayed:  # noqa: N801 (called as a function, as in every kernel set)
    """A function that may run its tasks without Python between them; see the top of this file.

    function: maps arrays to one array, as kernels/reference's `replayed` describes it. Each Python
    thread records for itself, because it has working memory of its own.
    """

    def __init__(self, function: Callable[..., np.ndarray]):
        self._function, self._calls = function, _Calls()

    def __call__(self, *inputs: np.ndarray) -> np.ndarray:
        calls, weights = self._calls, current()
        if weights is None:
            return self._function(*inputs)
        if calls.weights is not weights or calls.count != threads.count():
            calls.weights, calls.count = weights, threads.count()
            calls.first = calls.record = None
            calls.eager = False
        if calls.record is not None:
            return calls.record.replay(0, inputs).copy()
        if calls.eager:
            return self._function(*inputs)
        return self._second(inputs) if calls.first else self._first(inputs)

    def _first(self, inputs: Arrays) -> np.ndarray:
        lifetimes = Lifetimes()
        with recorded_by(lifetimes):
            output = self._function(*inputs)
        self._calls.first = lifetimes, tuple(x.copy() for x in inputs), output.copy()
        return output

    def _second(self, inputs: Arrays) -> np.ndarray:
        lifetimes, first_inputs, first_output = self._calls.first
        self._calls.first, self._calls.eager = None, True  # also if an exception follows
        record = Record(lifetimes)
        output = record.record(self._function, inputs).copy()
        if all(np.array_equal(a, b) for a, b in zip(inputs, first_inputs, strict=True)):
            # A replay of the same inputs shows nothing: take others.
            first_inputs = tuple(changed(x) for x in inputs)
            first_output = self._function(*first_inputs)
        if not record.broken and _equal(record.replay(0, first_inputs), first_output):
            self._calls.record, self._calls.eager = record, False
        return output


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


class replayed_step:  # noqa: N801
    """The caller of a training step's functions, which share planned memory.

    It keeps no function: a trainer that passes its own methods would never be freed.
    """

    def __init__(self, count: int, state: Arrays):
        self._count, self._state = count, state
        self._lifetimes: Lifetimes | None = None
        self._record: Record | None = None
        self._recorded: list[Function] = []  # while they are compared
        self._run = replayed_step._first  # unbound: a method would keep this object
        self._where: tuple[int, int] | None = None

    def __call__(self, i: int, function: Function, step: int, *inputs: Any) -> Any:
        if i == 0:
            self._begin()
        return self._run(self, i, function, step, inputs)

    def _begin(self) -> None:
        where = threading.get_ident(), threads.count()
        if where != self._where:  # another Python thread has other working memory
            self._run, self._record = replayed_step._first, None
        self._where, self._recorded = where, []
        if self._run is replayed_step._first:
            self._lifetimes = Lifetimes()
        elif self._run is replayed_step._second:
            self._record = Record(self._lifetimes)

    def _first(self, i: int, function: Function, step: int, inputs: Inputs) -> Any:
        with recorded_by(self._lifetimes):
            output = function(step, *inputs)
        if i == self._count - 1:
            self._run = replayed_step._second
        return output

    def _second(self, i: int, function: Function, step: int, inputs: Inputs) -> Any:
        output = _copied(self._record.record(partial(function, step), inputs))
        self._recorded.append(function)
        if i == self._count - 1:
            if not self._record.broken and self._is_right(step + 1):
                self._run = replayed_step._replay
            else:
                self._run, self._record = replayed_step._eager, None
            self._recorded = []
        return output

    def _eager(self, i: int, function: Function, step: int, inputs: Inputs) -> Any:
        return function(step, *inputs)

    def _replay(self, i: int, function: Function, step: int, inputs: Inputs) -> Any:
        here.step[0], *_ = key(step, 0, 0)  # all tasks draw with it
        return _copied(self._record.replay(i, inputs))

    def _is_right(self, step: int) -> bool:
        """Return whether a replay with other inputs and other weights does what eager calls do."""

        def repeat(i: int, inputs: Inputs) -> Any:
            return self._record.repeat(i, partial(self._recorded[i], step), inputs)

        def replay(i: int, inputs: Inputs) -> Any:
            return self._replay(i, self._recorded[i], step, inputs)

        inputs = [call.inputs for call in self._record.calls]
        return agree((repeat, replay), inputs, self._state)


def _copied(output: Any) -> Any:
    """Return copies of a function's output: the next call writes to its memory."""
    if isinstance(output, tuple):
        return tuple(map(_copied, output))
    return None if output is None else output.copy()
