"""All metrics of a set of pictures, each beside what real digits and noise get."""

import functools
import time
from typing import Any, NamedTuple

import numpy as np

from minddpm import random
from minddpm.baselines.classifier.training import ClassifierOptions
from minddpm.data import ImageDataset
from minddpm.errors import InputError
from minddpm.evaluation.metrics.classification import classification_score
from minddpm.evaluation.metrics.frechet import bootstrapped_error, frechet_distance
from minddpm.evaluation.metrics.inception_score import inception_score
from minddpm.evaluation.metrics.judge import Judge
from minddpm.evaluation.metrics.kid import kernel_inception_distance
from minddpm.evaluation.metrics.nearest import nearest
from minddpm.evaluation.metrics.precision_recall import precision_recall
from minddpm.evaluation.metrics.statistics import FeatureStatistics


class Value(NamedTuple):
    """A number and its standard error (nan where it has none)."""

    value: float
    error: float = float("nan")


def check_pictures(
    judge: Judge, train: ImageDataset, images: np.ndarray, labels: np.ndarray | None, name: str
) -> None:
    """Raise InputError unless the images [n, H, W, C] can be compared with those of train."""
    K = judge.classes
    if labels is not None and not ((labels >= 0) & (labels < K)).all():
        raise InputError(
            f"{name} has the labels {labels.min()} .. {labels.max()}: give 0 .. {K - 1}, or choose "
            "--classification-steps 0."
        )
    if images.shape[1:] != train.images.shape[1:]:
        raise InputError(
            f"{name} holds pictures of {images.shape[1:]}, and the real ones are "
            f"{train.images.shape[1:]}: give pictures of that size."
        )
    judge.check_count(len(images), name)


class Reference:
    """The real pictures that others are compared with, as the judge sees them.

    train: what a model may have learned from; its features are the real side of every distance.
    test: what no model has seen; n of its pictures show what a perfect model would get.
    """

    def __init__(self, judge: Judge, train: ImageDataset, test: ImageDataset):
        self.judge, self.train, self.test = judge, train, test
        # Whoever takes the first n of these takes a random n: a file may be sorted.
        self.shuffled_train = random.permutation(len(train), 0, random.METRIC, 0)
        self.shuffled_test = random.permutation(len(test), 0, random.METRIC, 1)
        started = time.perf_counter()
        self.features = judge.look(train.images[self.shuffled_train]).features
        self.seconds_per_look = (time.perf_counter() - started) / len(train)
        self.statistics = FeatureStatistics(self.features)

    def real(self, n: int) -> np.ndarray:
        """n test pictures, or all if there are fewer: what a perfect model would draw."""
        return self.test.images[self.shuffled_test[:n]]

    def seconds(self, n: int, classification_steps: int | None) -> float:
        """About how long evaluate() of n pictures will take."""
        # measure() of the pictures, of real and of shuffled ones; neighbours among the training set
        looks, neighbours = 4 * n, 3 * n * len(self.train) * 6e-9 * self.train.images[0].size
        if classification_steps is not None:
            looks += 2 * classification_steps * ClassifierOptions().batch_size * 3  # and back
        return looks * self.seconds_per_look + neighbours / 100

    def measure(self, images: np.ndarray, seed: int = 0) -> dict[str, Value]:
        """Every metric of uint8 images [n, H, W, C] that needs no training."""
        # Splits and blocks are of neighbours, and a file may be sorted by class.
        images = images[random.permutation(len(images), seed, random.METRIC, 2)]
        seen = self.judge.look(images)
        n = min(len(images), len(self.features))
        precision, recall = precision_recall(self.features[:n], seen.features[:n])
        _, distances = nearest(_flat(images), _flat(self.train.images))
        return {
            "fid": Value(
                frechet_distance(self.statistics, FeatureStatistics(seen.features)),
                bootstrapped_error(self.statistics, seen.features, seed=seed),
            ),
            "kid": Value(*kernel_inception_distance(self.features, seen.features)),
            "inception_score": Value(*inception_score(seen.log_p)),
            "precision": Value(precision),
            "recall": Value(recall),
            "nearest_training_distance": Value(float(np.median(distances))),
        }


def evaluate(
    reference: Reference,
    images: np.ndarray,
    labels: np.ndarray | None,
    about: dict[str, Any],
    classification_steps: int | None = 1000,
) -> dict[str, dict[str, Any]]:
    """Every metric of uint8 images [n, H, W, C] with floor, ceiling and protocol, for JSON.

    labels: int [n], or None to let the judge name the digits for the classification score, which
    is left out where classification_steps is None. about: what made the pictures.
    floor: what real pictures get, as many or all there are; ceiling: what pictures get that show
    nothing. Which ones these are, "floor_is" and "ceiling_is" say.
    """
    rows = _without_training(reference, images)
    if classification_steps is not None:
        rows["classification_score"] = _classification(
            reference, images, labels, classification_steps
        )
    common = {
        "n": len(images),
        "extractor": reference.judge.name,
        "reference": reference.train.source,
        "test": reference.test.source,
        **about,
    }
    return {name: {**row, **common} for name, row in rows.items()}


def _without_training(reference: Reference, images: np.ndarray) -> dict[str, dict[str, Any]]:
    n = min(len(images), len(reference.test))
    floor, ceiling = _floor_and_ceiling(reference, n)
    return {
        name: {
            "value": value,
            "standard_error": None if np.isnan(error) else error,
            "floor": floor[name].value,
            "floor_is": f"{n:,} test pictures",
            "ceiling": ceiling[name].value,
            "ceiling_is": "the same with the pixels of each in a random order",
        }
        for name, (value, error) in reference.measure(images).items()
    }


# The same for every set of so many pictures: whoever judges several of them waits once.
@functools.lru_cache(maxsize=1)
def _floor_and_ceiling(reference: Reference, n: int) -> tuple[dict[str, Value], dict[str, Value]]:
    real = reference.real(n)
    return reference.measure(real), reference.measure(shuffled_pixels(real))


@functools.lru_cache(maxsize=1)
def _classification_floor(reference: Reference, n: int, steps: int) -> float:
    chosen, train = reference.shuffled_train[:n], reference.train
    return classification_score(train.images[chosen], train.labels[chosen], reference.test, steps)


def _classification(
    reference: Reference, images: np.ndarray, labels: np.ndarray | None, steps: int
) -> dict[str, Any]:
    test, n = reference.test, min(len(images), len(reference.train))
    if labels is None:
        labels = reference.judge.look(images).log_p.argmax(axis=1)
    return {
        "value": classification_score(images, labels, test, steps),
        "standard_error": None,
        # Test pictures are what it is tested on: it cannot learn from them, too.
        "floor": _classification_floor(reference, n, steps),
        "floor_is": f"{n:,} training pictures with their own labels",
        "ceiling": float(np.bincount(test.labels).max() / len(test)),
        "ceiling_is": "naming the commonest class of the test pictures",
    }


def shuffled_pixels(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """uint8 images [n, H, W, C] with the pixels of each in a random order of its own."""
    n, P = len(images), images[0].size
    order = np.stack([random.permutation(P, seed, random.PIXELS, i) for i in range(n)])
    return np.take_along_axis(images.reshape(n, P), order, axis=1).reshape(images.shape)


def _flat(images: np.ndarray) -> np.ndarray:
    """Pixels in 0 .. 1, scaled so that a Euclidean distance is the root mean square difference."""
    return images.reshape(len(images), -1) / (255 * np.sqrt(images[0].size))
