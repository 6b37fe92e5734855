"""Adam, gradient clipping, the learning rate over time, and the moving average of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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

    def squared_norm(self) -> Array:
        """The squared length of all gradients together, float64 without axes, on the device."""
        return backend.kernels.squared_norm(self.flat.grad)

    def step(self, clip_norm: float | None = None, ema: EMA | None = None) -> Array | None:
        """Update the parameters from their gradients, shortened to clip_norm if they are longer.

        Returns squared_norm() if there is a clip_norm. If that is no finite number, nothing is
        updated; on a device nobody waits to find out. ema: the average of these parameters, to be
        updated in the same pass, as ema.update would. Raises ValueError if it is of others.
        """
        if ema is not None and ema.flat is not self.flat:
            raise ValueError("the average is of other parameters: nn.EMA(optimizer.flat)")
        average, decay = (None, 0.0) if ema is None else (ema.average, ema.decay_at(self.steps))
        squared, scale = None, 1.0
        if clip_norm is not None:
            squared = self.squared_norm()
            scale = backend.kernels.clip_scale(squared, clip_norm)
        self.steps += 1
        backend.kernels.adam(
            self.flat.data, self.flat.grad, self.m, self.v, average, self.steps,
            self.lr, *self.betas, self.eps, self.weight_decay, scale, decay,
        )  # fmt: skip
        return squared

    def zero_grad(self) -> None:
        """Set every gradient to zero."""
        self.flat.grad[...] = 0


def warmup_lr(lr: float, step: int, warmup_steps: int) -> float:
    """The learning rate of step 0, 1, ...: a straight line up to lr within warmup_steps.

    Adam's second moments are averages of few gradients at first, so its first steps are wild.
    """
    return lr * min(1.0, (step + 1) / max(1, warmup_steps))


def cooldown(step: int, steps: int, begin: int) -> float:
    """What is left of the learning rate at step 0, 1, ...: 1 up to step `begin`, then ever less.

    From there on it is a straight line that would be 0 at step `steps`, the first one too many.

    At a constant rate the weights jitter around a good solution; a straight line down lets them
    come to rest, whenever it begins, so that how long to train need not be known before. Source:
    Haegele et al. 2024, "Scaling Laws and Compute-Optimal Training Beyond Fixed Training
    Durations", section 3.
    """
    return 1 - (step - begin) / (steps - begin) if step > begin else 1.0


class EMA:
    """The exponential moving average of the weights, which is what samples are made with.

    The weights jitter around a good solution at the scale of the learning rate; their average over
    the last 1 / (1 - decay) steps is nearer to it (Ho et al. use 0.9999).
    """

    def __init__(self, flat: FlatParameters, decay: float = 0.9999):
        self.flat, self.decay = flat, decay
        self.average = flat.data.copy()

    def decay_at(self, step: int) -> float:
        """The decay after training step `step` (0-based): min(decay, (1 + step) / (10 + step)).

        With the full decay from the start, the random initial weights would still have
        0.9999^1000 = 90% of the average after 1,000 steps.
        """
        return min(self.decay, (1 + step) / (10 + step))

    def update(self, step: int) -> None:
        """Take in the weights after training step `step` (0-based)."""
        backend.kernels.ema(self.average, self.flat.data, self.decay_at(step))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model's weights are the average; afterwards its own again."""
        own = self.flat.data.copy()
        self.flat.data[...] = self.average
        try:
            yield
        finally:
            self.flat.data[...] = own
