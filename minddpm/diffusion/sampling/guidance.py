"""Samples of a chosen class: classifier-free guidance (Ho and Salimans 2022).

The model is trained with the class of each image, and sometimes with none, which is one more class.
So it gives two predictions of the noise, and the effect of the class can be exaggerated:

    eps = eps_none + guidance (eps_class - eps_none)    (their equation 6 with w = guidance - 1)

guidance 1 is the model itself; above 1, samples get more typical and less varied.
"""

import math

import numpy as np

from minddpm import backend
from minddpm.autodiff import Tensor
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.errors import InputError


class Guided:
    """A class-conditional model with the class of each image fixed: (x, t) -> output.

    labels: integers [N]; num_classes, one beyond the last class, means none. model: what computes
    the outputs, the unet itself (None) or replayed(unet).
    Raises InputError for labels out of range, a model without classes, and a negative or infinite
    guidance.
    """

    def __init__(
        self, unet: Model, labels: np.ndarray, guidance: float = 1.0, model: Model | None = None
    ):
        none = unet.num_classes
        if not none:
            raise InputError(
                "the model has no classes: leave out label and guidance, or train one with "
                "--class-conditional."
            )
        labels = np.asarray(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise InputError(f"labels are {labels.dtype} {labels.shape}: give integers [N].")
        if labels.size and not 0 <= labels.min() <= labels.max() <= none:
            raise InputError(
                f"labels reach from {labels.min()} to {labels.max()}: choose 0 .. {none - 1}."
            )
        if not 0 <= guidance < math.inf:
            raise InputError(
                f"guidance {guidance}: choose a number of at least 0; 1 means no guidance."
            )
        self.unet, self.model, self.guidance = unet, model or unet, float(guidance)
        # On the host, where the embedding can check them without a synchronisation.
        self.labels = labels.astype(np.int64)
        self.none = np.full(len(labels), none)

    def __call__(self, x: Array, t: Array) -> Array:
        """Return the guided output, [N, H, W, C] or [N, H, W, 2 C]."""
        output = self._output(x, t, self.labels)
        if self.guidance == 1:
            return output
        without, C = self._output(x, t, self.none), x.shape[-1]
        # A learned variance, in the other channels, is that of the conditional prediction.
        prediction = without[..., :C] + self.guidance * (output[..., :C] - without[..., :C])
        if output.shape[-1] == C:
            return prediction
        return backend.xp.concatenate([prediction, output[..., C:]], axis=-1)

    def _output(self, x: Array, t: Array, labels: np.ndarray) -> Array:
        # Embedded here, because a replayed model reads no label on the host.
        output = self.model(x, t, self.unet.class_embedding(labels))
        return output.data if isinstance(output, Tensor) else output
