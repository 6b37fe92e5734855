"""Loss scaling: keep gradients within the range of half precision on a GPU."""

import math

from minddpm import backend
from minddpm.autodiff import Tensor
from minddpm.backend import Array

# Limits of the scale: values outside them gain nothing, and float32 itself might overflow.
SMALLEST, LARGEST = 2.0**-24, 2.0**40


class LossScale:
    """The factor by which the loss is multiplied before backward, adapted after every step.

    Half precision represents magnitudes 6e-8 .. 65504, with fewer bits below 6e-5. The gradients of
    a mean over `numbers` elements are about 1 / numbers, so the scale starts at `numbers`. It is
    always a power of two (`numbers` is rounded down to one), so that scaling causes no rounding. A
    gradient that overflows becomes infinite: the optimizer then skips the step, and the scale is
    halved. After `patience` steps in a row without overflow the scale is doubled, since gradients
    become smaller as a model improves.

    The device stores the scale and checks for overflow, so nothing synchronises.
    Source: Micikevicius et al. 2018, "Mixed Precision Training", section 3.2.
    """

    def __init__(self, numbers: int, patience: int = 1000):
        self.patience = patience
        self.scale = backend.xp.asarray(2.0 ** math.floor(math.log2(numbers)), dtype="float32")
        # Steps without overflow since the scale last changed.
        self.good = backend.xp.zeros((), "float32")

    def arrays(self) -> tuple[Array, Array]:
        """Return what update() changes."""
        return self.scale, self.good

    @staticmethod
    def needed() -> bool:
        """Return whether the backend computes in half precision."""
        return backend.precision() == "fp16"

    def scaled(self, loss: Tensor) -> Tensor:
        """Return the loss whose backward gives scaled gradients."""
        return loss * self.scale if self.needed() else loss

    def backward(self, loss: Tensor, g: Array | None = None) -> None:
        """Add the scaled gradients of a loss to those of the parameters; g: as in its backward."""
        self.scaled(loss).backward(g)

    def unscale(self, gradients: Array) -> None:
        """Divide by the scale what calls of backward() have added up."""
        if self.needed():
            gradients *= 1 / self.scale

    def update(self, squared_norm: Array) -> None:
        """Adapt the scale after a step; squared_norm: of its gradient, a 0-d float64 array."""
        if not self.needed():
            return
        xp = backend.xp
        finite = xp.isfinite(squared_norm)
        self.good[...] = xp.where(finite, self.good + 1, 0)
        double = self.good >= self.patience
        factor = xp.where(finite, xp.where(double, 2, 1), 0.5)
        self.scale[...] = xp.clip(self.scale * factor, SMALLEST, LARGEST)
        self.good[...] = xp.where(double, 0, self.good)

    def may_recover(self) -> bool:
        """Return whether a smaller scale may make the gradients finite again. Synchronises.

        False without half precision, and at the smallest scale: in both cases the gradients are
        not finite even unscaled.
        """
        return self.needed() and float(backend.to_numpy(self.scale)) > SMALLEST

    def state(self, prefix: str = "") -> dict[str, dict[str, Array]]:
        """Return the arrays to store in a checkpoint, in the group prefix + "loss_scale"."""
        if not self.needed():
            return {}
        # Views with one axis, since checkpoint files hold no 0-d arrays.
        arrays = {"scale": self.scale.reshape(1), "good": self.good.reshape(1)}
        return {f"{prefix}loss_scale": arrays}
