"""Module and Parameter: a tree of layers whose leaves are named arrays."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from minddpm import backend
from minddpm.autodiff import Tensor
from minddpm.backend import Array


class Parameter(Tensor):
    """A trainable leaf. Assigning to .data copies the values into the existing array.

    The optimiser holds all parameters in one flat buffer, of which each .data and .grad is a view
    (see flat.py); replacing the array would silently detach the parameter from that buffer.

    torch_axes: the transposition to PyTorch's layout, used to write files; inverted to read them.
    """

    _data: Array | None = None
    _grad: Array | None = None
    _bound = False  # whether _data and _grad are views of an optimiser's buffers

    def __init__(self, data: Any, torch_axes: tuple[int, ...] | None = None):
        super().__init__(data, requires_grad=True)
        self.torch_axes = torch_axes

    @property
    def data(self) -> Array:
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        value = backend.xp.asarray(value)
        if self._data is None:  # the first assignment, in Tensor.__init__
            self._data = value
        elif value.shape == self.shape:
            self._data[...] = value
        else:
            raise ValueError(f"a parameter of shape {self.shape} cannot take {value.shape}")

    @property
    def grad(self) -> Array | None:
        return self._grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        # If bound, `p.grad = None` zeroes the view, for the reason given in the class docstring.
        if self._bound:
            self._grad[...] = 0 if value is None else value
        else:
            self._grad = value

    def bind(self, data: Array, grad: Array) -> None:
        """Copy data and gradient into these arrays of the same shape; use the arrays from now on.

        Raises ValueError if the parameter is bound already: its optimiser would lose it.
        """
        self._check_free()
        data[...] = self._data
        grad[...] = 0 if self._grad is None else self._grad
        self._data, self._grad, self._bound = data, grad, True

    def astype(self, dtype: str) -> None:
        """Convert the values and drop the gradient. Raises ValueError if the parameter is bound."""
        self._check_free()
        self._data, self._grad = self._data.astype(dtype), None

    def _check_free(self) -> None:
        if self._bound:
            raise ValueError("the parameter belongs to an optimiser already: make a new model")


class Module:
    """A layer or a tree of layers. Its Parameters and child Modules are its attributes.

    Attribute names are joined by dots, as in PyTorch and diffusers, in the order of assignment.
    """

    training = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def children(self) -> Iterator[tuple[str, Module]]:
        """Yield (name, module) for each direct child."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def modules(self) -> Iterator[Module]:
        """Yield this module and all its descendants."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """Yield (name, Parameter) for the tree: a module's own first, then its children's."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.children():
            yield from child.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> list[Parameter]:
        """Return all parameters, in the order of named_parameters()."""
        return [p for _, p in self.named_parameters()]

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for p in self.parameters():
            p.grad = None

    def train(self, mode: bool = True) -> Module:
        """Turn dropout on (or off, with mode=False); return the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Turn dropout off; return the module."""
        return self.train(False)

    def with_same_weights(self) -> Module:
        """Return a copy of the module tree that has the same Parameters, but a mode of its own."""
        other = copy.copy(self)
        for name, child in self.children():
            setattr(other, name, child.with_same_weights())
        return other

    def astype(self, dtype: str) -> Module:
        """Convert every parameter, for example to "float64" for gradcheck; return the module."""
        for p in self.parameters():
            p.astype(dtype)
        return self


class ModuleList(Module):
    """Modules named 0, 1, 2, ..."""

    def __init__(self, modules: list[Module]):
        for i, module in enumerate(modules):
            setattr(self, str(i), module)

    def __iter__(self) -> Iterator[Module]:
        return (child for _, child in self.children())

    def __len__(self) -> int:
        return sum(1 for _ in self.children())

    def __getitem__(self, i: int) -> Module:
        return list(self)[i]
