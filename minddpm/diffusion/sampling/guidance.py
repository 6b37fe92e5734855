"""Pictures of a chosen class: classifier-free guidance (Ho and Salimans 2022).

The model is trained with a class for each picture, and now and then with none, which is one class
more. So it knows two directions out of the noise, and what the class adds can be exaggerated:

    eps = eps_none + guidance (eps_class - eps_none)    (their equation 6 with w = guidance - 1)

guidance 1 is the model itself; above, pictures get more typical and less varied.
"""

import math

import numpy as np

from minddpm import backend
from minddpm.backend import Array
from minddpm.diffusion.forward import Model
from minddpm.errors import InputError


class Guided:
    """A class-conditional model that is told the class of each picture: (x, t) -> output.

    labels: integers [N]; the last one that the model has an embedding for means none.
    Raises InputError for labels out of range, a model without classes, or a guidance that is no
    number of at least 0.
    """

    def __init__(self, unet: Model, labels: np.ndarray, guidance: float = 1.0):
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
            raise InputError(f"guidance {guidance}: choose a number of at least 0; 1 is none.")
        self.unet, self.guidance = unet, float(guidance)
        # On the host, where the embedding checks them without waiting for a device.
        self.labels = labels.astype(np.int64)
        self.none = np.full(len(labels), none)

    def __call__(self, x: Array, t: Array) -> Array:
        output = self.unet(x, t, self.labels).data
        if self.guidance == 1:
            return output
        without, C = self.unet(x, t, self.none).data, x.shape[-1]
        # A learned variance, in the channels beyond, is the class's own.
        prediction = without[..., :C] + self.guidance * (output[..., :C] - without[..., :C])
        if output.shape[-1] == C:
            return prediction
        return backend.xp.concatenate([prediction, output[..., C:]], axis=-1)
