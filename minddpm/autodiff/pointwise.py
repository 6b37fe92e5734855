"""Arithmetic and elementwise functions; the backward sums over the axes that were broadcast."""

from __future__ import annotations

import numbers
import operator
from collections.abc import Callable
from typing import Any

from minddpm import backend
from minddpm.autodiff.graph import Function, Tensor
from minddpm.backend import Array


def unbroadcast(gy: Array, shape: tuple[int, ...]) -> Array:
    """Sum gy to `shape`, the shape of an operand before it was broadcast; return its gradient.

    Broadcasting copies a value; its gradient is the sum of the gradients of the copies.
    """
    new_axes = gy.ndim - len(shape)
    axes = tuple(i for i, n in enumerate(gy.shape) if i < new_axes or shape[i - new_axes] != n)
    return gy.sum(axis=axes).reshape(shape) if axes else gy.reshape(shape)


class Binary(Function):
    """A function of two operands that broadcast together."""

    def backward(self, gy: Array) -> tuple[Array | None, ...]:
        return tuple(
            unbroadcast(gx, x.shape) if x.requires_grad else None
            for x, gx in zip(self.inputs, self.gradients(gy), strict=True)
        )

    def gradients(self, gy: Array) -> tuple[Array, Array]:
        """Return the gradients of both operands, in the broadcast shape."""
        raise NotImplementedError


class Add(Binary):
    def forward(self, a: Array, b: Array) -> Array:
        return backend.kernels.add(a, b) if a.shape == b.shape else a + b

    def gradients(self, gy: Array) -> tuple[Array, Array]:
        return gy, gy  # d(a + b) = da + db


class Sub(Binary):
    def forward(self, a: Array, b: Array) -> Array:
        return a - b

    def gradients(self, gy: Array) -> tuple[Array, Array]:
        return gy, -gy  # d(a - b) = da - db


class Mul(Binary):
    def forward(self, a: Array, b: Array) -> Array:
        self.save(a, b)
        return a * b

    def gradients(self, gy: Array) -> tuple[Array, Array]:
        a, b = self.saved
        return gy * b, gy * a  # d(a b) = b da + a db


class Div(Binary):
    def forward(self, a: Array, b: Array) -> Array:
        self.save(a, b)
        return a / b

    def gradients(self, gy: Array) -> tuple[Array, Array]:
        a, b = self.saved
        return gy / b, -gy * a / (b * b)  # d(a / b) = da / b - a db / b^2


class Power(Function):
    """x ** p for a constant p."""

    def __init__(self, p: float):
        self.p = p

    def forward(self, x: Array) -> Array:
        self.save(x)
        return x**self.p

    def backward(self, gy: Array) -> tuple[Array]:
        (x,) = self.saved
        if self.p == 0:
            return (gy * 0,)  # x^0 = 1 has gradient 0, even if x^-1 is infinite
        return (gy * (self.p * x ** (self.p - 1)),)  # d(x^p) = p x^(p-1) dx


class Exp(Function):
    def forward(self, x: Array) -> Array:
        y = backend.xp.exp(x)
        self.save(y)
        return y

    def backward(self, gy: Array) -> tuple[Array]:
        (y,) = self.saved
        return (gy * y,)  # d(e^x) = e^x dx


def exp(x: Tensor) -> Tensor:
    """Compute e ** x, elementwise."""
    return Exp()(x)


class Log(Function):
    def forward(self, x: Array) -> Array:
        self.save(x)
        return backend.xp.log(x)

    def backward(self, gy: Array) -> tuple[Array]:
        (x,) = self.saved
        return (gy / x,)  # d(ln x) = dx / x


def log(x: Tensor) -> Tensor:
    """Compute the natural logarithm, elementwise."""
    return Log()(x)


class Tanh(Function):
    def forward(self, x: Array) -> Array:
        y = backend.xp.tanh(x)
        self.save(y)
        return y

    def backward(self, gy: Array) -> tuple[Array]:
        (y,) = self.saved
        return (gy * (1 - y * y),)  # d tanh(x) = (1 - tanh(x)^2) dx


def tanh(x: Tensor) -> Tensor:
    """Compute the hyperbolic tangent, elementwise: values in (-1, 1)."""
    return Tanh()(x)


class SiLU(Function):
    def forward(self, x: Array) -> Array:
        self.save(x)
        return backend.kernels.silu(x)

    def backward(self, gy: Array) -> tuple[Array]:
        (x,) = self.saved
        return (backend.kernels.silu_backward(gy, x),)


def silu(x: Tensor) -> Tensor:
    """Compute x / (1 + e^-x), also called swish (Elfwing et al. 2017), elementwise."""
    return SiLU()(x)


def _constant(x: Any, like: Tensor) -> Any:
    # A Python number takes the tensor's type: float32 data stays float32.
    return backend.xp.asarray(x, dtype=like.dtype) if isinstance(x, numbers.Number) else x


# Assigned here because this file imports graph.py, which therefore cannot import this file.
Tensor.__add__ = lambda a, b: Add()(a, _constant(b, a))
Tensor.__radd__ = lambda a, b: Add()(_constant(b, a), a)
Tensor.__sub__ = lambda a, b: Sub()(a, _constant(b, a))
Tensor.__rsub__ = lambda a, b: Sub()(_constant(b, a), a)
Tensor.__mul__ = lambda a, b: Mul()(a, _constant(b, a))
Tensor.__rmul__ = lambda a, b: Mul()(_constant(b, a), a)
Tensor.__truediv__ = lambda a, b: Div()(a, _constant(b, a))
Tensor.__rtruediv__ = lambda a, b: Div()(_constant(b, a), a)
Tensor.__neg__ = lambda a: Sub()(_constant(0, a), a)
Tensor.__pow__ = lambda a, p: Power(p)(a)


def _compare(compare: Callable[[Array, Any], Array]) -> Callable[[Tensor, Any], Array]:
    """Return a method that compares the data with a number, an array or another tensor's data."""
    return lambda a, b: compare(a.data, b.data if isinstance(b, Tensor) else b)


# Arrays, not tensors: booleans have no gradient.
Tensor.__eq__ = _compare(operator.eq)
Tensor.__ne__ = _compare(operator.ne)
Tensor.__lt__ = _compare(operator.lt)
Tensor.__le__ = _compare(operator.le)
Tensor.__gt__ = _compare(operator.gt)
Tensor.__ge__ = _compare(operator.ge)
