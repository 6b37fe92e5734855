"""The networks' layers: each initialises its parameters and calls one autodiff function."""

import math
from typing import Any

from minddpm import autodiff as F
from minddpm import backend, random
from minddpm.autodiff import Tensor
from minddpm.backend import Array
from minddpm.kernels.shapes import Padding
from minddpm.nn.init import fan_in_uniform, standard_normal
from minddpm.nn.module import Module, Parameter


class Conv2d(Module):
    """Convolution of [N, H, W, C_in]: weight [kernel_size, kernel_size, C_in, C_out], bias [C_out].

    padding: zeros on every side, or ((top, bottom), (left, right)). zero: initialise with zeros, as
    Ho et al. do for the last convolution of each residual block. Every block is then the identity
    at first, and the network is in effect shallow.
    """

    def __init__(
        self,
        C_in: int,
        C_out: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | Padding = 0,
        zero: bool = False,
    ):
        fan_in = kernel_size * kernel_size * C_in
        scale = 0.0 if zero else 1.0
        weight = fan_in_uniform((kernel_size, kernel_size, C_in, C_out), fan_in) * scale
        self.weight = Parameter(weight, torch_axes=(3, 2, 0, 1))
        self.bias = Parameter(fan_in_uniform((C_out,), fan_in) * scale)
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class ConvTranspose2d(Module):
    """Transposed convolution: weight [kernel_size, kernel_size, C_out, C_in], bias [C_out].

    padding: rows and columns cropped on every side, or ((top, bottom), (left, right)).
    """

    def __init__(
        self,
        C_in: int,
        C_out: int,
        kernel_size: int,
        stride: int = 1,
        padding: int | Padding = 0,
    ):
        # PyTorch's definition: the fan-in of the convolution that this layer transposes.
        fan_in = kernel_size * kernel_size * C_out
        weight = fan_in_uniform((kernel_size, kernel_size, C_out, C_in), fan_in)
        self.weight = Parameter(weight, torch_axes=(3, 2, 0, 1))
        self.bias = Parameter(fan_in_uniform((C_out,), fan_in))
        self.stride, self.padding = stride, padding

    def forward(self, x: Tensor) -> Tensor:
        return F.conv_transpose2d(x, self.weight, self.bias, self.stride, self.padding)


class Linear(Module):
    """The map x w + b over the last axis: weight [C_in, C_out], bias [C_out]."""

    def __init__(self, C_in: int, C_out: int, zero: bool = False):
        scale = 0.0 if zero else 1.0
        weight = fan_in_uniform((C_in, C_out), C_in) * scale
        self.weight = Parameter(weight, torch_axes=(1, 0))
        self.bias = Parameter(fan_in_uniform((C_out,), C_in) * scale)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class Embedding(Module):
    """A table of `rows` vectors: int [N] -> [N, C]."""

    def __init__(self, rows: int, C: int):
        self.weight = Parameter(standard_normal((rows, C)))

    def forward(self, index: Array) -> Tensor:
        return F.take_rows(self.weight, index)


class GroupNorm(Module):
    """Group normalisation of [N, ..., C], also fused with the SiLU and convolution after it."""

    def __init__(self, groups: int, C: int, eps: float = 1e-5):
        if C % groups:
            raise ValueError(f"norm_num_groups {groups} does not divide {C} channels")
        self.weight = Parameter(backend.xp.ones(C, "float32"))
        self.bias = Parameter(backend.xp.zeros(C, "float32"))
        self.groups, self.eps = groups, eps

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.weight, self.bias, self.groups, self.eps)

    def silu(self, x: Tensor) -> Tensor:
        """Compute silu(forward(x)) in one operation."""
        return F.group_norm_silu(x, self.weight, self.bias, self.groups, self.eps)

    def silu_conv(
        self, x: Tensor | tuple[Tensor, ...], conv: Conv2d,
        shift: Tensor | None = None, extra: Any = None,
    ) -> Tensor:  # fmt: skip
        """Compute conv(silu(forward(x))) + shift + extra by F.norm_silu_conv2d; conv is 3x3."""
        return F.norm_silu_conv2d(
            x, self.weight, self.bias, self.groups, self.eps,
            w=conv.weight, b=conv.bias, shift=shift, extra=extra,
        )  # fmt: skip


class Dropout(Module):
    """In training, zero each value with probability p and scale the rest by 1 / (1 - p)."""

    def __init__(self, p: float):
        self.p = p

    @property
    def active(self) -> bool:
        """Whether forward changes its input; true in training with p > 0."""
        return self.training and self.p > 0

    def forward(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        image_size = math.prod(x.shape[1:])
        return F.dropout(x, self.p, random.ambient_stream(random.DROPOUT, image_size))
