"""Functions that sum or move values: reductions, reshaping, slicing, concatenation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minddpm import backend
from minddpm.autodiff.graph import Function, Tensor
from minddpm.backend import Array

Axes = int | tuple[int, ...] | None


def _positive(axis: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    axes = (axis,) if isinstance(axis, int) else axis
    return tuple(a % ndim for a in axes)


class Sum(Function):
    """The sum times a factor: 1, or for a mean one over the number of elements."""

    def __init__(self, axis: Axes, keepdims: bool, factor: float = 1):
        self.axis, self.keepdims, self.factor = axis, keepdims, factor

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return self._times_factor(x.sum(axis=self.axis, keepdims=self.keepdims))

    def _times_factor(self, x: Array) -> Array:
        return backend.xp.asarray(x if self.factor == 1 else x * x.dtype.type(self.factor))

    def backward(self, gy: Array) -> tuple[Array]:
        # y = factor sum_i x_i, so the gradient of every x_i is factor gy.
        gy = self._times_factor(gy)
        if not self.keepdims and self.axis is not None:
            gy = backend.xp.expand_dims(gy, _positive(self.axis, len(self.shape)))
        return (backend.xp.broadcast_to(gy, self.shape),)


def sum(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Compute the sum over all elements, or over the given axes."""
    return Sum(axis, keepdims)(x)


def mean(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """Compute the average over all elements, or over the given axes; nan over no element."""
    axes = range(x.ndim) if axis is None else _positive(axis, x.ndim)
    count = math.prod(x.shape[a] for a in axes)
    return Sum(axis, keepdims, 1 / count if count else math.nan)(x)


class Reshape(Function):
    gives_view = True

    def __init__(self, shape: tuple[int, ...]):
        self.new_shape = shape

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(self.new_shape)

    def backward(self, gy: Array) -> tuple[Array]:
        return (gy.reshape(self.shape),)


def reshape(x: Tensor, *shape: int) -> Tensor:
    """Return the same values in another shape; one size may be -1."""
    return Reshape(shape)(x)


class Slice(Function):
    """x[index] for basic indices: integers, slices, None and Ellipsis."""

    gives_view = True

    def __init__(self, index: Any):
        parts = index if isinstance(index, tuple) else (index,)
        if not all(p is None or p is Ellipsis or isinstance(p, (int, slice)) for p in parts):
            # An array of indices may select an element twice; its gradients would have to be added.
            raise TypeError(
                f"index a tensor with integers and slices, not {index!r}; use take_rows for arrays"
            )
        self.index = index

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x[self.index]

    def backward(self, gy: Array) -> tuple[Array]:
        gx = backend.xp.zeros(self.shape, gy.dtype)  # elements outside the index have gradient 0
        gx[self.index] = gy
        return (gx,)


class Concat(Function):
    def __init__(self, axis: int):
        self.axis = axis

    def forward(self, *arrays: Array) -> Array:
        self.sizes = [a.shape[self.axis] for a in arrays]
        return backend.xp.concatenate(arrays, axis=self.axis)

    def backward(self, gy: Array) -> tuple[Array, ...]:
        gradients, start = [], 0
        for size in self.sizes:
            index = [slice(None)] * gy.ndim
            index[self.axis] = slice(start, start + size)
            gradients.append(backend.xp.ascontiguousarray(gy[tuple(index)]))
            start += size
        return tuple(gradients)


def concat(tensors: Sequence[Tensor], axis: int = -1) -> Tensor:
    """Join tensors along one axis; ValueError if their other axes differ."""
    ndim = tensors[0].ndim
    rest = [[n for i, n in enumerate(x.shape) if i != axis % ndim] for x in tensors]
    if any(r != rest[0] for r in rest):
        shapes = ", ".join(str(x.shape) for x in tensors)
        raise ValueError(f"concat along axis {axis}: the other axes of {shapes} should be equal")
    return Concat(axis)(*tensors)


class TakeRows(Function):
    """weight[index], the lookup in an embedding table."""

    def __init__(self, index: Array):
        self.index = index

    def forward(self, weight: Array) -> Array:
        self.rows = len(weight)
        return backend.kernels.take_rows(weight, self.index)

    def backward(self, gy: Array) -> tuple[Array]:
        return (backend.kernels.take_rows_backward(gy, self.index, self.rows),)


def take_rows(weight: Tensor, index: Array) -> Tensor:
    """Return weight[index]: weight [R, C], index int [N] -> [N, C].

    Raises ValueError for an index outside 0 .. R - 1, unless it is on a device and recorded.
    """
    rows = weight.shape[0]
    if backend.is_readable(index):
        host = backend.to_numpy(index)
        if host.size and not (host.min() >= 0 and host.max() < rows):
            raise ValueError(f"take_rows: index {host.min()} .. {host.max()} into {rows} rows")
    return TakeRows(backend.xp.asarray(index))(weight)


# Assigned here because this file imports graph.py, which therefore cannot import this file.
Tensor.sum = sum
Tensor.mean = mean
Tensor.reshape = reshape
Tensor.__getitem__ = lambda x, index: Slice(index)(x)
