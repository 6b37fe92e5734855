"""The classification score: what can be learned about real digits from generated ones."""

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
    """The share of real test digits that a classifier knows which was trained on these images only.

    images: uint8 [n, H, W, C], labels: int [n]. Pictures that are blurred, or all alike, teach
    little, and wrong labels teach wrong things: the score falls with the quality, the variety and
    the labels of the pictures. The classifier and its training are those of the judge.
    Source: Ravuri and Vinyals 2019, "Classification Accuracy Score for Conditional Generative
    Models".
    """
    data = ImageDataset(images, np.asarray(labels, np.int64), "generated pictures")
    options = ClassifierOptions(steps=steps, seed=seed, log_every=steps, checkpoint_every=steps)
    random.manual_seed(seed)
    classifier = Classifier(in_channels=images.shape[3])
    with tempfile.TemporaryDirectory() as folder:
        loop = ClassifierLoop(classifier, data, RunDirectory(Path(folder)), options)
        if not loop.train():
            raise KeyboardInterrupt  # a classifier of fewer steps would be another number
        with loop.ema.applied():
            return accuracy(classifier, test.images, test.labels)
