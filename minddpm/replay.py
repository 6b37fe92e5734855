"""Replay: record a computation once, then repeat it without running Python between kernels.

    model = minddpm.replayed(unet)
    with backend.kernels.constant_weights():
        eps = model(x, t)   # calls with one shape: the first is eager, then recorded, then replayed

A sampler calls one model hundreds of times with arrays of one shape. On a GPU a CUDA graph
(kernels/cuda/replay.py) then repeats the same kernels on the same memory; on a CPU one native call
runs the list of the same tasks (kernels/cpu/replay.py). kernels/reference cannot record, and calls
the model each time. Results are bit-equal either way, and callers need not know whether the model
is recorded. On a CPU it is only within constant_weights().
"""

from typing import Any

from minddpm import backend
from minddpm.autodiff import Tensor, no_grad
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.nn import Module


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
