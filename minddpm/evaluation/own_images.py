"""FID, KID, precision and recall of images of any kind, with reference values beside them.

There is no test set: the reference is divided into images that stand for a perfect model (`held`)
and the rest, with which everything is compared. The same is measured of `held` made worse in known
ways, so that a value can be placed: is it nearer to real images, or to blurred ones?
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from PIL import Image, ImageFilter

from minddpm import random
from minddpm.data import ImageDataset
from minddpm.errors import InputError
from minddpm.evaluation.metrics.frechet import bootstrapped_error, frechet_distance
from minddpm.evaluation.metrics.kid import kernel_inception_distance
from minddpm.evaluation.metrics.precision_recall import precision_recall
from minddpm.evaluation.metrics.statistics import FeatureStatistics
from minddpm.evaluation.report import Value, shuffled_pixels

MOST = 10_000  # images of the reference with which the others are compared
BOOTSTRAPPED, WIDE = 50, 256  # rounds of the bootstrap; features for which it would take too long
REAL, BLURRED, HALF, SHUFFLED = (
    "real images", "blurred", "half of the classes", "shuffled pixels",
)  # fmt: skip


class Extractor(Protocol):
    """Computes the features whose distributions are compared.

    name: its description in one line; note: with which other values its distances compare.
    """

    name: str
    note: str

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return [n, F] of uint8 images [n, H, W, C]."""


class OwnReference:
    """The images of a data set, divided in two, and their features.

    count: the number of samples to come. n: how many of them are compared, and how many images
    stand for a perfect model: at most half of the data set, so that all values have the same n.
    Raises InputError if the covariance of the features needs more images than there are.
    """

    def __init__(self, extractor: Extractor, dataset: ImageDataset, count: int):
        self.extractor, self.dataset = extractor, dataset
        width = extractor.features(dataset.pixels(np.arange(1))).shape[1]
        if len(dataset) < 2 * (width + 1):
            raise InputError(
                f"{dataset.source}: the covariance of {width} features needs {width + 1} images, "
                f"and the reference is divided in two: give at least {2 * width + 2} images."
            )
        if count < width + 1:
            raise InputError(
                f"{count} samples are too few for the covariance of {width} features: give at "
                f"least {width + 1}, better 1,000."
            )
        self.n = min(count, len(dataset) // 2)
        order = random.permutation(len(dataset), 0, random.METRIC, 0)
        self.held = np.sort(order[: self.n])
        self.rest = np.sort(order[self.n : self.n + MOST])
        self.compared = self._shuffled(extractor.features(dataset.pixels(self.rest)))
        self.statistics = FeatureStatistics(self.compared)

    def measure(self, images: np.ndarray, error: bool = False) -> dict[str, Value]:
        """Return the metrics of n of the uint8 images [m, H, W, C], m >= n.

        error: also compute the standard error of FID, which takes as long as BOOTSTRAPPED values.
        """
        # Shuffled: a folder is sorted by class, and KID's blocks are consecutive images.
        features = self.extractor.features(self._shuffled(images)[: self.n])
        precision, recall = precision_recall(self.compared[: self.n], features)
        fid = Value(frechet_distance(self.statistics, FeatureStatistics(features)))
        if error:
            fid = fid._replace(error=bootstrapped_error(self.statistics, features, BOOTSTRAPPED))
        return {
            "fid": fid,
            "kid": Value(*kernel_inception_distance(self.compared, features)),
            "precision": Value(precision),
            "recall": Value(recall),
        }

    def scale(self) -> dict[str, dict[str, Value]]:
        """Return the metrics of real images, and of the same made worse in known ways, by name."""
        real = self.dataset.pixels(self.held)
        worse: dict[str, Callable[[], np.ndarray]] = {
            REAL: lambda: real,
            BLURRED: lambda: blurred(real),
            SHUFFLED: lambda: shuffled_pixels(real),
        }
        if self.dataset.labels is not None:
            chosen = half_of_the_classes(self.dataset.labels[self.held])
            if chosen is not None:
                worse[HALF] = lambda: real[chosen]
        order = [name for name in (REAL, BLURRED, HALF, SHUFFLED) if name in worse]
        return {name: self.measure(worse[name]()) for name in order}

    @staticmethod
    def _shuffled(rows: np.ndarray) -> np.ndarray:
        return rows[random.permutation(len(rows), 0, random.METRIC, 1)]


def evaluate_own(
    reference: OwnReference, images: np.ndarray, about: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the metrics of uint8 images [n, H, W, C] as a JSON-ready dict, by name.

    The entries are those of report.evaluate, and `scale`: the value of each known degradation.
    """
    scale, n = reference.scale(), reference.n
    measured = reference.measure(images, error=reference.compared.shape[1] <= WIDE)
    common = {
        "n": n, "extractor": reference.extractor.name, "note": reference.extractor.note,
        "reference": reference.dataset.source, "compared": len(reference.rest),
        "floor_is": f"{n:,} other images of the reference",
        "ceiling_is": "the same with the pixels of each in a random order", **about,
    }  # fmt: skip
    return {
        name: {
            "value": value,
            "standard_error": None if np.isnan(error) else error,
            "floor": scale[REAL][name].value,
            "ceiling": scale[SHUFFLED][name].value,
            "scale": {kind: values[name].value for kind, values in scale.items()},
            **common,
        }
        for name, (value, error) in measured.items()
    }


def blurred(images: np.ndarray) -> np.ndarray:
    """Return uint8 images [n, H, W, C] after a Gaussian blur of a 32nd of their smaller side."""
    blur = ImageFilter.GaussianBlur(min(images.shape[1:3]) / 32)
    out = np.empty_like(images)
    for image, result in zip(images, out, strict=True):
        grey = image.shape[2] == 1
        soft = np.asarray(Image.fromarray(image[..., 0] if grey else image).filter(blur))
        result[...] = soft[..., None] if grey else soft
    return out


def half_of_the_classes(labels: np.ndarray) -> np.ndarray | None:
    """Return len(labels) indices of images, all of the first half of the classes, some repeated.

    Returns None if there is only one class.
    """
    classes = np.unique(labels)
    if len(classes) < 2:
        return None
    chosen = np.flatnonzero(np.isin(labels, classes[: len(classes) // 2]))
    return np.tile(chosen, -(-len(labels) // len(chosen)))[: len(labels)]
