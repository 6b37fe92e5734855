"""Replay: record a computation once, then repeat it without running Python between kernels.

    model = minddpm.replayed(unet)
    with backend.kernels.constant_weights():
        eps = model(x, t)   # calls with one shape: the first is eager, then recorded, then replayed

A sampler calls one model hundreds of times with arrays of one shape. On a GPU a CUDA graph
(kernels/cuda/replay.py) then repeats the same kernels on the same memory; on a CPU one native call
runs the list of the same tasks (kernels/cpu/replay.py). kernels/reference cannot record, and calls
the model each time. Results are bit-equal either way, and callers need not know whether the model
is recorded. On a CPU it is only within constant_weights().

A training step has two such halves, the model forward and backward; between them the loss is
computed as usual:

    model = replayed_training(unet, optimizer.flat)
    diffusion.training_losses(model, x0, t, noise).mean().backward()
"""

import weakref
from typing import Any

import numpy as np

from minddpm import backend, random
from minddpm.autodiff import Tensor, no_grad
from minddpm.autodiff.graph import Function, records_graph
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.nn import Module
from minddpm.nn.flat import FlatParameters


class Replayed:
    """A model (x, t) -> array that is recorded once for each shape.

    A class-conditional model has a third input, the embedding of its labels. The model is recorded
    again if a weight has been replaced by another array. Not recorded are a model in training mode,
    since its dropout differs from call to call, and an empty batch, which needs no kernel.
    """

    def __init__(self, model: Model):
        self.model = model
        self._parameters = model.parameters() if isinstance(model, Module) else []
        self._weights: list[Array] = []
        self._records: dict[tuple[Any, ...], Model] = {}

    def __call__(self, x: Array, t: Array, embedding: Tensor | None = None) -> Array:
        inputs = [backend.xp.asarray(x), backend.xp.asarray(t, "int64")]
        if embedding is not None:
            inputs.append(embedding.data)
        if getattr(self.model, "training", False) or inputs[0].size == 0:
            return self._run(*inputs)
        weights = [p.data for p in self._parameters]
        if any(new is not old for new, old in zip(weights, self._weights, strict=False)):
            self._records.clear()
        self._weights = weights
        key = (backend.active().name, backend.precision(), *((i.shape, i.dtype) for i in inputs))
        if key not in self._records:
            self._records[key] = backend.kernels.replayed(self._run)
        return self._records[key](*inputs)

    def _run(self, x: Array, t: Array, *embedding: Array) -> Array:
        with no_grad():
            output = self.model(x, t, *map(Tensor, embedding))
        return output.data if isinstance(output, Tensor) else output


def replayed(model: Model) -> Model:
    """Return a model that records the work of `model` for each shape and replays it.

    model: (x, t) -> array or Tensor; a UNet2D, or any callable that runs the same kernels for all
    values of x and t and does not read these values on the host. Results are bit-equal to those of
    `model`, and have no gradient.
    """
    return Replayed(model)


class ReplayedTraining:
    """A model (x, t) -> Tensor whose forward and backward are each recorded once for each shape.

    A class-conditional model has a third input, the labels. Dropout draws the numbers of an eager
    call: random.manual_seed before each one, with the same seed, or the model is not replayed. A
    call is eager, too, while the graph of the call before still waits for its backward.
    """

    def __init__(self, model: Module, flat: FlatParameters):
        self.model, self.flat = model, flat
        self._records: dict[tuple[Any, ...], _Recorded] = {}
        self._last: Any = lambda: None  # a weak reference to the function of the last call

    def __call__(self, x: Array, t: Array, class_labels: Any = None) -> Tensor:
        xp, last = backend.xp, self._last()
        x, t = xp.asarray(x), xp.asarray(t, "int64")
        embedded = [] if class_labels is None else [self.model.class_embedding(class_labels)]
        if (last is not None and last.inputs is not None) or not records_graph() or x.size == 0:
            return self.model(x, t, *embedded)
        *position, step = random.ambient()
        shapes = [(a.shape, a.dtype) for a in (x, t, *(e.data for e in embedded))]
        key = (backend.active().name, backend.precision(), *shapes)
        if key not in self._records:
            buffers = tuple(xp.zeros_like(e.data) for e in embedded)
            self._records[key] = _Recorded(self.model, self.flat, buffers, *position)
        recorded = self._records[key]
        if recorded.draws and position != [recorded.seed, recorded.draw]:
            return self.model(x, t, *embedded)
        # The step stays on the host: reading it from a GPU would wait for all kernels.
        call = _ModelCall(recorded, x, t, np.array([step], np.int64))
        self._last = weakref.ref(call)
        # A function is part of the graph if an input needs a gradient. Here only weights do.
        return call(Tensor(xp.zeros((), self.flat.data.dtype), requires_grad=True), *embedded)


class _Recorded:
    """The model's forward and backward for one shape, and the gradients of the embedding."""

    def __init__(
        self, model: Module, flat: FlatParameters, buffers: tuple[Array, ...], seed: int, draw: int
    ):
        self.model, self.buffers, self.seed, self.draw = model, buffers, seed, draw
        self.draws = 0  # that a call makes
        self._output: Tensor | None = None  # of a call that runs eagerly, until its backward
        self.halves = backend.kernels.replayed_training(
            self._forward, self._backward, flat.data, (flat.grad, *buffers)
        )

    def _forward(self, x: Array, t: Array, step: Array, *embedding: Array) -> Array:
        random.set_ambient(self.seed, self.draw, int(step[0]))
        leaves = [Tensor(e, requires_grad=True) for e in embedding]
        for leaf, buffer in zip(leaves, self.buffers, strict=True):
            leaf.grad = buffer
        self._output = self.model(x, t, *leaves)
        self.draws = random.ambient()[1] - self.draw
        return self._output.data

    def _backward(self, gy: Array) -> None:
        output, self._output = self._output, None
        output.backward(gy)


class _ModelCall(Function):
    """A model as one function of the graph; its backward adds to the gradients of the weights."""

    def __init__(self, recorded: _Recorded, x: Array, t: Array, step: Array):
        self.recorded, self.x, self.t, self.step = recorded, x, t, step

    def forward(self, anchor: Array, *embedding: Array) -> Array:
        seed, draw, step = random.ambient()
        y = self.recorded.halves.forward(self.x, self.t, self.step, *embedding)
        random.set_ambient(seed, draw + self.recorded.draws, step)
        return y

    def backward(self, gy: Array) -> tuple[Array, ...]:
        ambient, buffers = random.ambient(), self.recorded.buffers
        for buffer in buffers:
            buffer[...] = 0
        self.recorded.halves.backward(gy)
        random.set_ambient(*ambient)
        return backend.xp.zeros((), gy.dtype), *(buffer.copy() for buffer in buffers)


def replayed_training(model: Module, flat: FlatParameters) -> Model:
    """Return a model for training that records its forward and backward and replays them.

    flat: all parameters of the model. Gradients are bit-equal to those of `model`. x gets none.
    """
    return ReplayedTraining(model, flat)
