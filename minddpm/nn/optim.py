"""Adam, gradient clipping, learning-rate schedules, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from minddpm import backend
from minddpm.backend import Array
from minddpm.nn.flat import FlatParameters
from minddpm.nn.module import Parameter


class Adam:
    """Adam (Kingma and Ba 2015); with weight_decay > 0 AdamW (Loshchilov and Hutter 2019).

    After construction every parameter's .data and .grad are views of one flat buffer, `flat`.
    """

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float = 2e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        self.flat = FlatParameters(parameters)
        self.lr, self.betas, self.eps, self.weight_decay = lr, betas, eps, weight_decay
        self.m = backend.xp.zeros_like(self.flat.data)
        self.v = backend.xp.zeros_like(self.flat.data)
        self.steps = 0

    def arrays(self, ema: EMA | None = None) -> tuple[Array, ...]:
        """Return all arrays that step() changes, and the gradients."""
        own = self.flat.data, self.flat.grad, self.m, self.v
        return own if ema is None else (*own, ema.average)

    def squared_norm(self) -> Array:
        """Return the squared norm of all gradients together, a 0-d float64 array on the device."""
        return backend.kernels.squared_norm(self.flat.grad)

    def step(self, clip_norm: float | None = None, ema: EMA | None = None) -> Array | None:
        """Update the parameters; a gradient norm above clip_norm is first scaled down to clip_norm.

        ema: updated in the same pass, as by ema.update. Raises ValueError if ema averages other
        parameters. Returns squared_norm() if clip_norm is given, else None. If the norm is not
        finite, nothing is updated; this does not synchronise.
        """
        if ema is not None and ema.flat is not self.flat:
            raise ValueError("ema averages other parameters: create it with nn.EMA(optimizer.flat)")
        squared = self.update(*self.numbers(ema), clip_norm, ema)
        self.steps += 1
        return squared

    def numbers(self, ema: EMA | None = None) -> tuple[int, float, float]:
        """Return what changes from step to step: step, counted from 1, lr and the ema's decay."""
        return self.steps + 1, self.lr, 0.0 if ema is None else ema.decay_at(self.steps)

    def update(
        self, step: Any, lr: Any, decay: Any, clip_norm: float | None = None, ema: EMA | None = None
    ) -> Array | None:
        """Do the array work of step() for these numbers(), which may be 0-d arrays."""
        squared, scale = self.clipping(clip_norm)
        self.update_part(slice(None), step, lr, decay, scale, ema)
        return squared

    def clipping(self, clip_norm: float | None) -> tuple[Array | None, Any]:
        """Return squared_norm() and the factor of the gradient; None and 1 without a clip_norm."""
        if clip_norm is None:
            return None, 1.0
        squared = self.squared_norm()
        return squared, backend.kernels.clip_scale(squared, clip_norm)

    def update_part(
        self, part: slice, step: Any, lr: Any, decay: Any, scale: Any, ema: EMA | None
    ) -> None:
        """Take Adam's step, and update the average, in this part of the flat buffer."""
        average = None if ema is None else ema.average[part]
        backend.kernels.adam(
            self.flat.data[part], self.flat.grad[part], self.m[part], self.v[part], average, step,
            lr, *self.betas, self.eps, self.weight_decay, scale, decay,
        )  # fmt: skip

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        backend.kernels.set_to_zero(self.flat.grad)


def warmup_lr(lr: float, step: int, warmup_steps: int) -> float:
    """Return the learning rate at step `step` (0-based), rising linearly to lr over warmup_steps.

    Adam's second moments are estimated from few gradients at first: early steps are unreliable.
    """
    return lr * min(1.0, (step + 1) / max(1, warmup_steps))


def cooldown(step: int, steps: int, begin: int) -> float:
    """Return the learning-rate factor at step `step` (0-based).

    It is 1 up to `begin`, then decreases linearly to 0 at step `steps`, where it stays. If `begin`
    is `steps`, it never decreases.

    At a constant rate the weights jitter around a good solution. A linear decrease lets them
    settle. It can start at any time, so the length of training need not be fixed in advance.
    Source: Haegele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations", section 3.
    """
    if step <= begin or begin == steps:
        return 1.0
    return 1 - min(1.0, (step - begin) / (steps - begin))


class EMA:
    """The exponential moving average of the weights, used for sampling.

    The weights jitter around a good solution at the scale of the learning rate; their average over
    the last 1 / (1 - decay) steps is closer to it (Ho et al. use 0.9999).
    """

    def __init__(self, flat: FlatParameters, decay: float = 0.9999):
        self.flat, self.decay = flat, decay
        self.average = flat.data.copy()

    def decay_at(self, step: int) -> float:
        """Return the decay after step `step` (0-based): min(decay, (1 + step) / (10 + step)).

        With the full decay from the start, the random initial weights would still make up
        0.9999^1000 = 90% of the average after 1,000 steps.
        """
        return min(self.decay, (1 + step) / (10 + step))

    def update(self, step: int) -> None:
        """Update the average with the weights after training step `step` (0-based)."""
        backend.kernels.ema(self.average, self.flat.data, self.decay_at(step))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the average as weights within the block; restore the trained weights afterwards."""
        own = self.flat.data.copy()
        self.flat.data[...] = self.average
        try:
            yield
        finally:
            self.flat.data[...] = own
