"""Replay: record a computation once, then repeat it without running Python between kernels.

    model = minddpm.replayed(unet)
    with backend.kernels.constant_weights():
        eps = model(x, t)   # calls with one shape: the first is eager, then recorded, then replayed

A sampler calls one model hundreds of times with arrays of one shape. On a GPU a CUDA graph
(kernels/cuda/replay.py) then repeats the same kernels on the same memory; on a CPU one native call
runs the list of the same tasks (kernels/cpu/replay.py). kernels/reference cannot record, and calls
the model each time. Results are bit-equal either way, and callers need not know whether the model
is recorded. On a CPU it is only within constant_weights().

A training step replays, too, as a whole:

    step = ReplayedStep(unet, optimizer.arrays())  # training/ddpm.py
    losses = step(function, 1, x0, t)  # the result of function(1, x0, t), as at any step

or its model alone, forward and backward, while the loss between them is computed as usual:

    model = replayed_training(unet, optimizer.flat)
    diffusion.training_losses(model, x0, t, noise).mean().backward()
"""

import weakref
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from minddpm import backend, random
from minddpm.autodiff import Tensor, no_grad
from minddpm.autodiff.graph import Function, records_graph
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.nn import Module
from minddpm.nn.flat import FlatParameters


class _Records:
    """What was recorded, by the shapes of its inputs and all else on which it depends.

    All is forgotten if a weight has been replaced by another array.
    """

    def __init__(self, model: Model):
        self._model, self.of_key = model, {}
        self._parameters = model.parameters() if isinstance(model, Module) else []
        self._weights: list[Array] = []

    def get(self, inputs: Sequence[Any], make: Callable[[], Any]) -> Any:
        """Return the record for inputs of these shapes, or the result of make() as a new one."""
        weights = [p.data for p in self._parameters]
        if any(new is not old for new, old in zip(weights, self._weights, strict=False)):
            self.of_key.clear()
        self._weights = weights
        training = getattr(self._model, "training", False)
        arrays = [(x.shape, x.dtype) for x in inputs if hasattr(x, "shape")]
        key = (backend.active().name, backend.precision(), training, *arrays)
        if key not in self.of_key:
            self.of_key[key] = make()
        return self.of_key[key]


class Replayed:
    """A model (x, t) -> array that is recorded once for each shape.

    A class-conditional model has a third input, the embedding of its labels. The model is recorded
    again if a weight has been replaced by another array. Not recorded are a model in training mode,
    since its dropout differs from call to call, and an empty batch, which needs no kernel.
    """

    def __init__(self, model: Model):
        self.model, self._records = model, _Records(model)
        # Not a method: a record that refers to this object would keep it until a collection.
        self._run = partial(_without_graph, model)

    def __call__(self, x: Array, t: Array, embedding: Tensor | None = None) -> Array:
        inputs = [backend.xp.asarray(x), backend.xp.asarray(t, "int64")]
        if embedding is None and getattr(self.model, "num_classes", 0):
            embedding = self.model.embed_labels(None, len(x))  # here: see sampling/guidance.py
        if embedding is not None:
            inputs.append(embedding.data)
        if getattr(self.model, "training", False) or inputs[0].size == 0:
            return self._run(*inputs)
        return self._records.get(inputs, lambda: backend.kernels.replayed(self._run))(*inputs)


def _without_graph(model: Model, x: Array, t: Array, *embedding: Array) -> Array:
    with no_grad():
        output = model(x, t, *map(Tensor, embedding))
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
        self.model, self.flat, self._records = model, flat, _Records(model)
        self._last: Any = lambda: None  # a weak reference to the function of the last call

    def __call__(self, x: Array, t: Array, class_labels: Any = None) -> Tensor:
        xp, last = backend.xp, self._last()
        x, t = xp.asarray(x), xp.asarray(t, "int64")
        embedded = [] if class_labels is None else [self.model.class_embedding(class_labels)]
        waits = last is not None and last.inputs is not None
        if waits or backend.kernels.is_recording() or not records_graph() or x.size == 0:
            return self.model(x, t, *embedded)
        *position, step = random.ambient()  # seed, number of the last draw, first image
        arrays = [e.data for e in embedded]
        recorded = self._records.get(
            (x, t, *arrays),
            lambda: _Recorded(
                self.model, self.flat, tuple(map(backend.xp.zeros_like, arrays)), position
            ),
        )
        if recorded.draws and position != recorded.position:
            return self.model(x, t, *embedded)
        call = _ModelCall(recorded, x, t, step)
        self._last = weakref.ref(call)
        # A function is part of the graph if an input needs a gradient. Here only weights do.
        return call(Tensor(xp.zeros((), self.flat.data.dtype), requires_grad=True), *embedded)


class _Recorded:
    """The model's forward and backward for one shape, and the gradients of the embedding."""

    def __init__(
        self, model: Module, flat: FlatParameters, buffers: tuple[Array, ...], position: list[int]
    ):
        self.model, self.buffers, self.position = model, buffers, position
        self.draws = 0  # that a call makes
        self._output: Tensor | None = None  # of a call that runs eagerly, until its backward
        self._call = backend.kernels.replayed_step(2, (flat.data, flat.grad, *buffers))

    def forward(self, step: int, *inputs: Array) -> Array:
        return self._call(0, self._forward, step, *inputs)

    def backward(self, step: int, gy: Array) -> None:
        self._call(1, self._backward, step, gy)

    def _forward(self, step: int, x: Array, t: Array, *embedding: Array) -> Array:
        random.set_ambient(*self.position, step)
        leaves = [Tensor(e, requires_grad=True) for e in embedding]
        for leaf, buffer in zip(leaves, self.buffers, strict=True):
            leaf.grad = buffer
        self._output = self.model(x, t, *leaves)
        self.draws = random.ambient()[1] - self.position[1]
        return self._output.data

    def _backward(self, step: int, gy: Array) -> None:
        output, self._output = self._output, None
        output.backward(gy)


class _ModelCall(Function):
    """A model as one function of the graph; its backward adds to the gradients of the weights."""

    def __init__(self, recorded: _Recorded, x: Array, t: Array, step: int):
        self.recorded, self.x, self.t, self.step = recorded, x, t, step

    def forward(self, anchor: Array, *embedding: Array) -> Array:
        seed, draw, *rest = random.ambient()
        y = self.recorded.forward(self.step, self.x, self.t, *embedding)
        random.set_ambient(seed, draw + self.recorded.draws, *rest)
        return y

    def backward(self, gy: Array) -> tuple[Array, ...]:
        ambient, buffers = random.ambient(), self.recorded.buffers
        for buffer in buffers:
            buffer[...] = 0
        self.recorded.backward(self.step, gy)
        random.set_ambient(*ambient)
        return backend.xp.zeros((), gy.dtype), *(buffer.copy() for buffer in buffers)


def replayed_training(model: Module, flat: FlatParameters) -> Model:
    """Return a model for training that records its forward and backward and replays them.

    flat: all parameters of the model. Gradients are bit-equal to those of `model`. x gets none.
    """
    return ReplayedTraining(model, flat)


class ReplayedStep:
    """A training step whose kernels are all recorded, once for each shape, and replayed.

    model: whose weights it trains. state: all arrays that it changes. count: of its functions, more
    than 1 if something that cannot be recorded happens between them.
    """

    def __init__(self, model: Module, state: tuple[Array, ...], count: int = 1):
        self._state, self._count, self._records = state, count, _Records(model)
        self._call, self._i = None, 0

    def __call__(self, function: Callable[..., Any], step: int, *inputs: Any) -> Any:
        """Return function(step, *inputs).

        function: the same in every step; returns an array, a tuple of arrays or None. It draws by
        random.manual_seed(seed, step), and runs the same kernels for all inputs of a shape. step:
        of its random draws. inputs: arrays, numbers or None. Results are bit-equal to those of the
        function alone; if NumPy computes a part of them, it is called every time.
        """
        self._call = self._records.get(
            inputs, lambda: backend.kernels.replayed_step(self._count, self._state)
        )
        self._i = 0
        return self._call(0, function, step, *inputs)

    def then(self, function: Callable[..., Any], step: int, *inputs: Any) -> Any:
        """Return function(step, *inputs), the next function of the step that the call began."""
        self._i += 1
        return self._call(self._i, function, step, *inputs)
