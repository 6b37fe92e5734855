"""Features of images that need no trained network: the energies of a Haar wavelet transform.

MNIST has a judge (judge.py), and photographs have Inception, whose weights must be downloaded. For
all other images there are these features: each is a number that can be named, they are the same on
every machine, and the distances of their distributions grow with noise, blur, compression, shifted
colours, moved parts and missing classes (tests/evaluation/test_own_image_metrics.py). They see
colours, contrast, layout and texture; they do not know what an image shows.
Source: Heeger and Bergen 1995, Portilla and Simoncelli 2000 (texture by the statistics of bands).
"""

from collections.abc import Iterator

import numpy as np

from minddpm.data import to_float

COARSEST = 6  # pixels: a smaller image has no further scale
# An energy at which a band counts as empty: 8 grey levels. Without it, the weakest noise on an even
# background would outweigh all else.
EMPTY = 1 / 16
LIGHT_CELLS, COLOUR_CELLS = 4, 2  # the layout: means in 4 x 4 and 2 x 2 cells
BATCH = 250


class Wavelets:
    """Computes the features; used like a judge.

    For each of light, red-blue and green-magenta (grey images have only light): the standard
    deviation; ln(EMPTY + mean |w|) of the horizontal, vertical and diagonal differences w at every
    scale; and the means in cells.
    """

    name = "wavelet energies, without a network"
    note = (
        "These are not Inception's FID and KID: compare them only with values of the same "
        "features, reference and n."
    )

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return the features float32 [n, F] of uint8 images [n, H, W, C]; F depends on H, W, C."""
        starts = range(0, len(images), BATCH)
        return np.concatenate([_features(images[i : i + BATCH]) for i in starts])


def _features(images: np.ndarray) -> np.ndarray:
    x = _opponent(to_float(images))
    parts = [x.std(axis=(1, 2)), _cells(x[..., :1], LIGHT_CELLS)]
    if x.shape[3] > 1:
        parts.append(_cells(x[..., 1:], COLOUR_CELLS))
    parts += [np.log(EMPTY + np.abs(w).mean(axis=(1, 2))) for w in _differences(x)]
    return np.concatenate(parts, axis=1)


def _opponent(x: np.ndarray) -> np.ndarray:
    """Return light, red-blue and green-magenta of RGB images; grey images are light already."""
    if x.shape[3] == 1:
        return x
    r, g, b = np.moveaxis(x, 3, 0)
    return np.stack([(r + g + b) / 3, (r - b) / 2, (2 * g - r - b) / 4], axis=3)


def _differences(x: np.ndarray) -> Iterator[np.ndarray]:
    """Yield three Haar bands [n, h, w, C] per scale; they are computed at every pixel."""
    while min(x.shape[1:3]) >= COARSEST:
        a, b, c, d = x[:, :-1, :-1], x[:, :-1, 1:], x[:, 1:, :-1], x[:, 1:, 1:]
        yield (a + b - c - d) / 2
        yield (a - b + c - d) / 2
        yield (a - b - c + d) / 2
        x = ((a + b + c + d) / 4)[:, ::2, ::2]


def _cells(x: np.ndarray, k: int) -> np.ndarray:
    """Return the means [n, k * k * C] in k x k cells, which overlap in an image smaller than k."""
    rows, columns = (
        [slice(n * i // k, max(n * i // k + 1, n * (i + 1) // k)) for i in range(k)]
        for n in x.shape[1:3]
    )
    means = [x[:, row, column].mean(axis=(1, 2)) for row in rows for column in columns]
    return np.concatenate(means, axis=1)
