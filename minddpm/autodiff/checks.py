"""Checks of the shapes of a layer's arguments. A message is built only if a check fails."""

from __future__ import annotations

from collections.abc import Sequence

from minddpm.autodiff.graph import Tensor, as_tensor


def check_shapes(name: str, fits: bool, expected: str, *tensors: Tensor) -> None:
    """Raise ValueError, naming the expected and the actual shapes, unless `fits` is true."""
    if not fits:
        found = ", ".join(str(x.shape) for x in tensors)
        raise ValueError(f"{name}: {expected} cannot have the shapes {found}")


def as_parts(name: str, x: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return x as a tuple of parts; ValueError if an axis other than the last differs."""
    xs = tuple(x) if isinstance(x, (tuple, list)) else (as_tensor(x),)
    fits = all(part.shape[:-1] == xs[0].shape[:-1] for part in xs)
    check_shapes(name, fits, "parts of x that differ in their last axis only", *xs)
    return xs


def check_groups(name: str, C: int, weight: Tensor, bias: Tensor, groups: int) -> None:
    """Raise ValueError unless weight and bias are [C] and C is divisible by groups."""
    fits = weight.shape == bias.shape == (C,)
    check_shapes(name, fits, f"norm weight and bias of {C} channels", weight, bias)
    if C % groups:
        raise ValueError(f"{name}: {C} channels cannot be split into {groups} equal groups")
