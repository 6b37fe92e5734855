"""Replay: what runs many times is recorded once, then repeated without Python between kernels.

    model = minddpm.replayed(unet)
    eps = model(x, t)       # for each shape: eager at first, then recorded, then replayed

A sampler calls one model hundreds of times with arrays of one shape. What each call does on a GPU
is then always the same list of kernels on the same memory: a CUDA graph (kernels/cuda/replay.py).
A kernel set that cannot record calls the model (kernels/reference). Results are the same bit for
bit either way, and whoever calls the model need not know.
"""

from typing import Any

from minddpm import backend
from minddpm.autodiff import Tensor, no_grad
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.nn import Module


class Replayed:
    """A model (x, t) -> array whose work is recorded, once for each shape.

    Recorded anew when the weights lie in other arrays. A model in training mode is called as it
    is, since its dropout differs from call to call.
    """

    def __init__(self, model: Model):
        self.model = model
        self._parameters = model.parameters() if isinstance(model, Module) else []
        self._weights: list[Array] = []
        self._records: dict[tuple[Any, ...], Model] = {}

    def __call__(self, x: Array, t: Array) -> Array:
        if getattr(self.model, "training", False):
            return self._run(x, t)
        x, t = backend.xp.asarray(x), backend.xp.asarray(t)
        weights = [p.data for p in self._parameters]
        if any(now is not then for now, then in zip(weights, self._weights, strict=False)):
            self._records.clear()
        self._weights = weights
        key = (backend.active().name, backend.precision(), x.shape, x.dtype, t.shape, t.dtype)
        if key not in self._records:
            self._records[key] = backend.kernels.replayed(self._run)
        return self._records[key](x, t)

    def _run(self, x: Array, t: Array) -> Array:
        with no_grad():
            output = self.model(x, t)
        return output.data if isinstance(output, Tensor) else output


def replayed(model: Model) -> Model:
    """Return a model that records what `model` does for a shape and replays it; results are equal.

    model: (x, t) -> array or Tensor; a UNet2D, or any callable that does the same for all values of
    x and t and reads none of them on the host. The result has no gradient.
    """
    return Replayed(model)
