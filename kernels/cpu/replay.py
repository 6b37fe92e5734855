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
again: outside of constant_weights() every call is eager. In training (replayed_training) the tasks
derive them from the weights at every step.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.constant_weights import Derived, current
from minddpm.kernels.cpu.record import Lifetimes, Record
from minddpm.kernels.cpu.recorder import here, recorded_by

Arrays = tuple[np.ndarray, ...]
OTHER = np.float32(2.0**-13)


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
            first_inputs = tuple(_changed(x) for x in inputs)
            first_output = self._function(*first_inputs)
        if not record.broken and _equal(record.replay(0, first_inputs), first_output):
            self._calls.record, self._calls.eager = record, False
        return output


def _changed(x: np.ndarray) -> np.ndarray:
    """Return other numbers of the same kind: -x, or for timesteps their neighbours."""
    return -x if x.dtype.kind == "f" else np.where(x > 0, x - 1, x + 1).astype(x.dtype)


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


class replayed_training:  # noqa: N801
    """The two halves of a training step that may run their tasks without Python between them.

    The arguments are those of kernels/reference's `replayed_training`. The second call compares a
    replay with an eager step of other inputs and weights: an array that NumPy computed from the old
    ones would differ.
    """

    def __init__(
        self, forward: Callable[..., np.ndarray], backward: Callable[[np.ndarray], None],
        weights: np.ndarray, gradients: Arrays,
    ):  # fmt: skip
        self._functions = forward, backward
        self._weights, self._gradients = weights, gradients
        self._lifetimes: Lifetimes | None = None
        self._record: Record | None = None
        self._run: Callable[[int, Arrays], Any] = self._first
        self._inputs: Arrays = ()
        self._where: tuple[int, int] | None = None

    def forward(self, *inputs: np.ndarray) -> np.ndarray:
        where = threading.get_ident(), threads.count()
        if where != self._where:  # another Python thread has other working memory
            self._run, self._record = self._first, None
        self._where, self._inputs = where, inputs
        if self._record is not None:
            self._record.restart()
        return self._run(0, inputs).copy()

    def backward(self, gy: np.ndarray) -> None:
        self._run(1, (gy,))

    def _eager(self, half: int, inputs: Arrays) -> Any:
        return self._functions[half](*inputs)

    def _first(self, half: int, inputs: Arrays) -> Any:
        if half == 0:
            self._lifetimes = Lifetimes()
        with recorded_by(self._lifetimes):
            output = self._functions[half](*inputs)
        if half == 1:
            self._run = self._second
        return output

    def _second(self, half: int, inputs: Arrays) -> Any:
        if half == 0:
            self._record = Record(self._lifetimes)
        output = self._record.record(self._functions[half], inputs)
        if half == 1:
            if not self._record.broken and self._is_right(inputs[0]):
                self._run = self._replay
            else:
                self._run, self._record = self._eager, None
        return output

    def _is_right(self, gy: np.ndarray) -> bool:
        """Return whether a replay with other inputs and other weights does what eager calls do."""
        arrays = self._weights, *self._gradients
        before, results = [a.copy() for a in arrays], []
        inputs, self._inputs = self._inputs, tuple(map(_changed, self._inputs))
        # All weights change, zeros too, by about as much as in a step: another Python thread may
        # be sampling from the model.
        self._weights += OTHER
        for call in (self._repeat, self._replay):
            self._record.restart()
            for gradient in self._gradients:
                gradient[...] = 0
            y = call(0, self._inputs).copy()
            call(1, (-gy,))
            results.append([y, *(g.copy() for g in self._gradients)])
        for array, value in zip(arrays, before, strict=True):
            array[...] = value
        self._inputs = inputs
        return all(map(_equal, *results))

    def _repeat(self, half: int, inputs: Arrays) -> Any:
        return self._record.repeat(half, self._functions[half], inputs)

    def _replay(self, half: int, inputs: Arrays) -> Any:
        here.step[...] = self._inputs[2]  # the tasks of both halves draw with it
        return self._record.replay(half, inputs)
