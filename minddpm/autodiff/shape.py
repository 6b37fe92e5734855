"""Functions that move or add up values: reductions, reshaping, slicing, concatenation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from minddpm import backend
from minddpm.autodiff.graph import Function, Tensor
from minddpm.backend import Array

Axes = int | tuple[int, ...] | None


class Sum(Function):
    def __init__(self, axis: Axes, keepdims: bool):
        self.axis, self.keepdims = axis, keepdims

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return backend.xp.asarray(x.sum(axis=self.axis, keepdims=self.keepdims))

    def backward(self, gy: Array) -> tuple[Array]:
        # y = sum_i x_i, so every x_i gets the whole of gy.
        if not self.keepdims and self.axis is not None:
            gy = backend.xp.expand_dims(gy, _positive(self.axis, len(self.shape)))
        return (backend.xp.broadcast_to(gy, self.shape),)


class Reshape(Function):
    gives_view = True

    def __init__(self, shape: tuple[int, ...]):
        self.new_shape = shape

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x.reshape(self.new_shape)

    def backward(self, gy: Array) -> tuple[Array]:
        return (gy.reshape(self.shape),)


class Slice(Function):
    """x[index] for basic indices: integers, slices, None and Ellipsis."""

    gives_view = True

    def __init__(self, index: Any):
        parts = index if isinstance(index, tuple) else (index,)
        if not all(p is None or p is Ellipsis or isinstance(p, (int, slice)) for p in parts):
            # An array of indices may name an element twice, whose gradients would have to be added.
            raise TypeError(
                f"a tensor takes integers and slices as index, not {index!r}: take_rows"
            )
        self.index = index

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        return x[self.index]

    def backward(self, gy: Array) -> tuple[Array]:
        gx = backend.xp.zeros(self.shape, gy.dtype)  # what was not taken had no effect
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


class TakeRows(Function):
    """weight[index]: the embedding table's lookup."""

    def __init__(self, index: Array):
        self.index = index

    def forward(self, weight: Array) -> Array:
        self.shape = weight.shape
        return weight[self.index]

    def backward(self, gy: Array) -> tuple[Array]:
        # gw[r] = sum of gy over the places where row r was taken, written as one product with the
        # one-hot matrix: the order of the additions is then fixed, unlike that of atomic ones.
        xp = backend.xp
        one_hot = (xp.arange(self.shape[0])[:, None] == self.index[None, :]).astype(gy.dtype)
        return (one_hot @ gy,)


def _positive(axis: int | tuple[int, ...], ndim: int) -> tuple[int, ...]:
    axes = (axis,) if isinstance(axis, int) else axis
    return tuple(a % ndim for a in axes)


def sum(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The sum over all elements, or over the named axes."""
    return Sum(axis, keepdims)(x)


def mean(x: Tensor, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The average over all elements, or over the named axes."""
    axes = range(x.ndim) if axis is None else _positive(axis, x.ndim)
    count = math.prod(x.shape[a] for a in axes)
    return sum(x, axis, keepdims) * (1 / count)


def reshape(x: Tensor, *shape: int) -> Tensor:
    """The same values in another shape; one size may be -1."""
    return Reshape(shape)(x)


def concat(tensors: Sequence[Tensor], axis: int = -1) -> Tensor:
    """Tensors of equal shape but for one axis, joined along it."""
    ndim = tensors[0].ndim
    rest = [[n for i, n in enumerate(x.shape) if i != axis % ndim] for x in tensors]
    if any(r != rest[0] for r in rest):
        shapes = ", ".join(str(x.shape) for x in tensors)
        raise ValueError(f"concat along axis {axis}: the other axes differ in {shapes}")
    return Concat(axis)(*tensors)


def take_rows(weight: Tensor, index: Array) -> Tensor:
    """weight [R, C], index int [N] -> [N, C]. Raises ValueError for an index outside 0..R-1."""
    rows, host = weight.shape[0], backend.to_numpy(index)
    if host.size and not (host.min() >= 0 and host.max() < rows):
        raise ValueError(f"take_rows: index {host.min()} .. {host.max()} into {rows} rows")
    return TakeRows(backend.xp.asarray(index))(weight)


Tensor.sum = sum
Tensor.mean = mean
Tensor.reshape = reshape
Tensor.__getitem__ = lambda x, index: Slice(index)(x)
