"""Muon: orthogonal steps for the weight matrices, Adam for everything else."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from minddpm import backend
from minddpm.backend import Array
from minddpm.nn.module import Parameter
from minddpm.nn.optim import EMA, Adam

# A matrix with a smaller side belongs to an input, an output or few classes: Adam suits it better.
SMALLEST_SIDE = 16


class Muon(Adam):
    """Muon (Jordan et al. 2024) for the weights of linear layers and convolutions.

    A weight [.., C_in, C_out] is a matrix of C_out columns; kernels/reference/muon.py has its step.
    Parameters of one axis, embeddings and matrices with a side below 16 take a step of Adam. In m,
    the momentum of Muon stands where Adam would have its mean; v is 0 there.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 2e-3,
        momentum: float = 0.95,
        **of_adam: Any,
    ):
        parameters = list(parameters)
        matrices = [p for p in parameters if _is_matrix(p)]
        others = [p for p in parameters if not _is_matrix(p)]
        super().__init__([*matrices, *others], lr, **of_adam)
        self.momentum = momentum
        starts = self.flat.starts()
        sizes = [(p.size // p.shape[-1], p.shape[-1]) for p in matrices]
        layout = [(start, *size) for start, size in zip(starts, sizes, strict=False)]
        self.layout = np.array(layout, np.int64).reshape(-1, 3)
        self.first_other = starts[len(matrices)]  # the numbers before it belong to matrices

    def update(
        self, step: Any, lr: Any, decay: Any, clip_norm: float | None = None, ema: EMA | None = None
    ) -> Array | None:
        """Do the array work of step() for these numbers(), which may be 0-d arrays."""
        squared, scale = self.clipping(clip_norm)
        arrays = self.flat.data, self.flat.grad, self.m, None if ema is None else ema.average
        matrices = [None if a is None else a[: self.first_other] for a in arrays]
        backend.kernels.muon(
            *matrices, self.layout, lr, self.momentum, self.weight_decay, scale, decay
        )
        self.update_part(slice(self.first_other, None), step, lr, decay, scale, ema)
        return squared


def _is_matrix(p: Parameter) -> bool:
    # Only weights of linear layers and convolutions are transposed for PyTorch.
    sides = math.prod(p.shape[:-1]), p.shape[-1] if p.shape else 1
    return p.torch_axes is not None and min(sides) >= SMALLEST_SIDE
