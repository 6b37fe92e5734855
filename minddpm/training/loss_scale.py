"""Keeping the gradients within half's range, where a GPU multiplies in half."""

import math

from minddpm import backend
from minddpm.autodiff import Tensor
from minddpm.backend import Array

# Beyond these nothing is gained, and float32's own ends would come near.
SMALLEST, LARGEST = 2.0**-24, 2.0**40


class LossScale:
    """The factor of the loss before its backward, and what becomes of it after every step.

    Half knows 6e-8 .. 65504, and below 6e-5 with fewer digits. The gradients of a mean over
    `numbers` numbers are about 1 / numbers, so the scale begins there; it is a power of two, so
    that nothing is rounded on the way. A gradient that overflows leaves the range of half as
    infinity: the optimizer leaves the weights alone, and the scale is halved. After `patience`
    good steps in a row it is doubled, for gradients become smaller as a model gets better.

    All of it lies on the device, and nobody waits: whether a step was good is decided there.
    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
    """

    def __init__(self, numbers: int, patience: int = 1000):
        self.patience = patience
        self.scale = backend.xp.asarray(2.0 ** math.floor(math.log2(numbers)), dtype="float32")
        self.good = backend.xp.zeros((), "float32")  # good steps since it last changed

    @staticmethod
    def needed() -> bool:
        """Whether anything is computed in half."""
        return backend.precision() == "fp16"

    def backward(self, loss: Tensor, gradients: Array) -> None:
        """The gradients of a loss without axes, in `gradients`, where the backward leaves them."""
        if not self.needed():
            loss.backward()
            return
        (loss * self.scale).backward()
        gradients *= 1 / self.scale

    def update(self, squared_norm: Array) -> None:
        """Learn from a step whose gradient had this squared length, float64 without axes."""
        if not self.needed():
            return
        xp = backend.xp
        finite = xp.isfinite(squared_norm)
        self.good[...] = xp.where(finite, self.good + 1, 0)
        grown = self.good >= self.patience
        factor = xp.where(finite, xp.where(grown, 2, 1), 0.5)
        self.scale[...] = xp.clip(self.scale * factor, SMALLEST, LARGEST)
        self.good[...] = xp.where(grown, 0, self.good)

    def mends_overflow(self) -> bool:
        """Whether a gradient that is not finite may be one of the next step; waits for the device.

        Not where nothing is in half, and not where the scale is as small as it gets: then the
        gradients are broken, not too large.
        """
        return self.needed() and float(backend.to_numpy(self.scale)) > SMALLEST

    def state(self, prefix: str = "") -> dict[str, dict[str, Array]]:
        """Its part of a checkpoint, the name of the group after the prefix."""
        if not self.needed():
            return {}
        # views: a file keeps arrays with at least one axis
        arrays = {"scale": self.scale.reshape(1), "good": self.good.reshape(1)}
        return {f"{prefix}loss_scale": arrays}
