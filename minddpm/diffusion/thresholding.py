"""Other limits of the predicted image than [-1, 1], as values of GaussianDiffusion's clip_x0."""

from typing import NamedTuple

import numpy as np

from minddpm import backend
from minddpm.backend import Array


class ClipRange(NamedTuple):
    """Clip to [-limit, limit]."""

    limit: float

    def __call__(self, pred_x0: Array) -> Array:
        return pred_x0.clip(-self.limit, self.limit)


class DynamicThreshold(NamedTuple):
    """Clip each image to [-s, s] and divide it by s, where `ratio` of its |pixels| are below s.

    s lies in 1 .. largest. Source: Saharia et al. 2022, "Imagen", section 2.3.
    """

    ratio: float
    largest: float

    def __call__(self, pred_x0: Array) -> Array:
        pixels = np.abs(backend.to_numpy(pred_x0)).reshape(len(pred_x0), -1)
        s = np.minimum(np.maximum(np.quantile(pixels, self.ratio, axis=1), 1), self.largest)
        s = backend.xp.asarray(s.reshape(-1, 1, 1, 1).astype("float32"))
        return backend.xp.minimum(backend.xp.maximum(pred_x0, -s), s) / s
