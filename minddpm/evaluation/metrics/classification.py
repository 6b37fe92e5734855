"""The classification score: how well a classifier trained on samples recognises real digits."""

import tempfile
from pathlib import Path

import numpy as np

from minddpm import random
from minddpm.baselines.classifier.model import Classifier
from minddpm.baselines.classifier.training import ClassifierLoop, ClassifierOptions, accuracy
from minddpm.data import ImageDataset
from minddpm.training.run_directory import RunDirectory


def classification_score(
    images: np.ndarray, labels: np.ndarray, test: ImageDataset, steps: int = 1000, seed: int = 0
) -> float:
    """Return the accuracy on real test digits of a classifier trained only on these images.

    images: uint8 [n, H, W, C], labels: int [n]. The score is low if the images are blurred or lack
    variety, or if their labels are wrong. Architecture and training are those of the judge.
    Source: Ravuri and Vinyals 2019, "Classification Accuracy Score for Conditional Generative
    Models".
    """
    data = ImageDataset(images, np.asarray(labels, np.int64), "generated images")
    options = ClassifierOptions(steps=steps, seed=seed, log_every=steps, checkpoint_every=steps)
    random.manual_seed(seed)
    classifier = Classifier(in_channels=images.shape[3])
    with tempfile.TemporaryDirectory() as folder:
        loop = ClassifierLoop(classifier, data, RunDirectory(Path(folder)), options)
        if not loop.train():
            raise KeyboardInterrupt  # the score of fewer steps is not comparable
        with loop.ema.applied():
            return accuracy(classifier, test.images, test.labels)
