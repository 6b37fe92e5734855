"""Every metric of a set of images, with its value for real images and for shuffled pixels."""

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
    """A number and its standard error (nan if unknown)."""

    value: float
    error: float = float("nan")


def check_samples(
    judge: Judge, train: ImageDataset, images: np.ndarray, labels: np.ndarray | None, name: str
) -> None:
    """Raise InputError unless the images [n, H, W, C] can be compared with those of train."""
    num_classes = judge.num_classes
    if labels is not None and not ((labels >= 0) & (labels < num_classes)).all():
        raise InputError(
            f"{name} has the labels {labels.min()} .. {labels.max()}: give 0 .. {num_classes - 1}, "
            "or choose --classification-steps 0."
        )
    if images.shape[1:] != train.images.shape[1:]:
        raise InputError(
            f"{name} has images of shape {images.shape[1:]}, but the real ones have "
            f"{train.images.shape[1:]}: give images of that shape."
        )
    judge.check_count(len(images), name)


class Reference:
    """The real images with which samples are compared; their features, computed by the judge.

    train: the training images of the models; distances are measured to their features.
    test: held-out images; the metrics of n of them are what a perfect model would score.
    """

    def __init__(self, judge: Judge, train: ImageDataset, test: ImageDataset):
        self.judge, self.train, self.test = judge, train, test
        # Shuffled, so that the first n are a random sample: a file may be sorted by class.
        self.shuffled_train = random.permutation(len(train), 0, random.METRIC, 0)
        self.shuffled_test = random.permutation(len(test), 0, random.METRIC, 1)
        started = time.perf_counter()
        self.features = judge.run(train.images[self.shuffled_train]).features
        self.seconds_per_image = (time.perf_counter() - started) / len(train)
        self.statistics = FeatureStatistics(self.features)

    def real_images(self, n: int) -> np.ndarray:
        """Return n test images, or all if fewer; they stand for samples of a perfect model."""
        return self.test.images[self.shuffled_test[:n]]

    def seconds(self, n: int, classification_steps: int | None) -> float:
        """Estimate the seconds that evaluate() of n images takes."""
        # The judge runs on the samples twice (features, labels), on real and on shuffled images.
        images = 4 * n
        # nearest() compares each set with the training images: about 6e-11 s per pixel of a pair.
        neighbours = 6e-11 * 3 * n * len(self.train) * self.train.images[0].size
        if classification_steps is not None:
            # Two classifiers are trained, one for the score and one for its floor. A training step
            # (forward and backward) takes three times as long as the forward pass alone.
            images += 2 * classification_steps * ClassifierOptions().batch_size * 3
        return images * self.seconds_per_image + neighbours

    def measure(self, images: np.ndarray, seed: int = 0) -> dict[str, Value]:
        """Return the metrics of uint8 images [n, H, W, C] that need no training of a classifier."""
        # Inception-score splits and KID blocks are consecutive images, so shuffle: a file may be
        # sorted by class.
        images = images[random.permutation(len(images), seed, random.METRIC, 2)]
        output = self.judge.run(images)
        n = min(len(images), len(self.features))
        precision, recall = precision_recall(self.features[:n], output.features[:n])
        _, distances = nearest(_flat(images), _flat(self.train.images))
        return {
            "fid": Value(
                frechet_distance(self.statistics, FeatureStatistics(output.features)),
                bootstrapped_error(self.statistics, output.features, seed=seed),
            ),
            "kid": Value(*kernel_inception_distance(self.features, output.features)),
            "inception_score": Value(*inception_score(output.log_p)),
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
    """Return all metrics of uint8 images [n, H, W, C] as a JSON-ready dict, by name.

    Each entry has the value, reference values (floor, ceiling) and how it was measured.
    labels: int [n] for the classification score; None: use the judge's predictions. If
    classification_steps is None, the score is not computed. about: how the images were made.
    floor: what real images get (the best a model can reach), at the same n if there are enough;
    ceiling: what images without content get; so for some metrics floor > ceiling. "floor_is" and
    "ceiling_is" describe these images.
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
            "floor_is": f"{n:,} test images",
            "ceiling": ceiling[name].value,
            "ceiling_is": "the same with the pixels of each in a random order",
        }
        for name, (value, error) in reference.measure(images).items()
    }


# Cached, since floor and ceiling depend only on n, and several sets may be judged in a row.
@functools.lru_cache(maxsize=1)
def _floor_and_ceiling(reference: Reference, n: int) -> tuple[dict[str, Value], dict[str, Value]]:
    real = reference.real_images(n)
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
        labels = reference.judge.run(images).log_p.argmax(axis=1)
    return {
        "value": classification_score(images, labels, test, steps),
        "standard_error": None,
        # The floor is trained on training images: the test images measure its accuracy.
        "floor": _classification_floor(reference, n, steps),
        "floor_is": f"{n:,} training images with their own labels",
        "ceiling": float(np.bincount(test.labels).max() / len(test)),
        "ceiling_is": "always predicting the most frequent class of the test images",
    }


def shuffled_pixels(images: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return uint8 images [n, H, W, C] with the pixels of each image in its own random order."""
    n, H, W, C = images.shape
    order = np.stack([random.permutation(H * W, seed, random.PIXELS, i) for i in range(n)])
    pixels = images.reshape(n, H * W, C)
    return np.take_along_axis(pixels, order[..., None], axis=1).reshape(images.shape)


def _flat(images: np.ndarray) -> np.ndarray:
    """Return pixels [n, P], scaled so that the Euclidean distance is the RMS difference."""
    return images.reshape(len(images), -1) / (255 * np.sqrt(images[0].size))
