"""Module and Parameter: a tree of layers whose leaves are named arrays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from minddpm import backend
from minddpm.autodiff import Tensor
from minddpm.backend import Array


class Parameter(Tensor):
    """A leaf that is trained. Assigning to .data copies into the array that is already there.

    The optimiser keeps all parameters in one flat buffer, of which each .data and .grad is a view
    (see flat.py); an assignment that replaced the array would silently leave that buffer behind.

    torch_axes: the transposition that gives PyTorch's layout, used where files are read or written.
    """

    def __init__(self, data: Any, torch_axes: tuple[int, ...] | None = None):
        self.torch_axes = torch_axes
        self._data = backend.xp.asarray(data)
        self._grad = None
        self._bound = False
        self.private = False
        self.requires_grad = True
        self.creator, self.output = None, 0

    @property
    def data(self) -> Array:
        return self._data

    @data.setter
    def data(self, value: Any) -> None:
        value = backend.xp.asarray(value)
        if value.shape != self._data.shape:
            raise ValueError(f"a parameter of shape {self._data.shape} cannot take {value.shape}")
        self._data[...] = value

    @property
    def grad(self) -> Array | None:
        return self._grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        # For the same reason: `p.grad = None` empties the optimiser's buffer, but stays in it.
        if self._bound:
            self._grad[...] = 0 if value is None else value
        else:
            self._grad = value

    def bind(self, data: Array, grad: Array) -> None:
        """Live in these arrays, of the same shape, from now on; the values move with it.

        Raises ValueError if it lives in an optimiser's arrays already, which would be left behind.
        """
        self._check_free()
        data[...] = self._data
        grad[...] = 0 if self._grad is None else self._grad
        self._data, self._grad, self._bound = data, grad, True

    def astype(self, dtype: str) -> None:
        """Convert the values; the gradient is forgotten. Raises ValueError as bind does."""
        self._check_free()
        self._data, self._grad = self._data.astype(dtype), None

    def _check_free(self) -> None:
        if self._bound:
            raise ValueError("the parameter belongs to an optimiser already: make a new model")


class Module:
    """A layer, or a tree of layers: attributes that are Parameters or Modules are found by name.

    Names are joined by dots in the order of assignment, as diffusers and PyTorch write them.
    """

    training = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def children(self) -> Iterator[tuple[str, Module]]:
        """The (name, module) pairs directly below this one."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value

    def modules(self) -> Iterator[Module]:
        """This module and all below it."""
        yield self
        for _, child in self.children():
            yield from child.modules()

    def named_parameters(self, prefix: str = "") -> Iterator[tuple[str, Parameter]]:
        """The ordered (name, Parameter) pairs of the whole tree."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield prefix + name, value
        for name, child in self.children():
            yield from child.named_parameters(f"{prefix}{name}.")

    def parameters(self) -> list[Parameter]:
        """All parameters, in the order of named_parameters()."""
        return [p for _, p in self.named_parameters()]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for p in self.parameters():
            p.grad = None

    def train(self, mode: bool = True) -> Module:
        """Turn dropout on (or off, with mode=False); returns the module."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self) -> Module:
        """Turn dropout off; returns the module."""
        return self.train(False)

    def astype(self, dtype: str) -> Module:
        """Convert every parameter, to "float64" for a gradient check, say; returns the module."""
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
