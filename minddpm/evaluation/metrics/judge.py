"""The judge: the network that computes the features for the metrics.

judge.safetensors was written by `python examples/train_classifier.py`, which trained the judge on
MNIST's 60,000 training digits. FID values are comparable only if they use the same judge.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from minddpm import backend
from minddpm.autodiff import Tensor, log_softmax, no_grad
from minddpm.baselines.classifier.model import Classifier
from minddpm.baselines.classifier.training import in_batches
from minddpm.baselines.model_file import load_model, save_model
from minddpm.errors import InputError

SHIPPED = Path(__file__).with_name("judge.safetensors")


class JudgeOutput(NamedTuple):
    """Features float32 [n, F] and ln p(class) float64 [n, num_classes] of n images."""

    features: np.ndarray
    log_p: np.ndarray


class Judge:
    """A trained Classifier; name: its description in one line."""

    def __init__(self, classifier: Classifier, name: str):
        self.classifier, self.name = classifier, name

    @property
    def width(self) -> int:
        """Return F, the number of features."""
        return self.classifier.linear.weight.shape[0]

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return self.classifier.linear.weight.shape[1]

    def check_count(self, n: int, name: str) -> None:
        """Raise InputError if n images are too few to estimate the covariance of the features."""
        if n <= self.width:
            raise InputError(
                f"{name} has {n} images, but a covariance of {self.width} features needs "
                f"{self.width + 1}: give at least 1,000, better 10,000."
            )

    def run(self, images: np.ndarray) -> JudgeOutput:
        """Return features and log-probabilities of the classes for uint8 images [n, H, W, C]."""
        features = in_batches(self.classifier.features, images)
        with no_grad():
            logits = self.classifier.linear(Tensor(backend.xp.asarray(features)))
            log_p = log_softmax(Tensor(logits.data.astype("float64")))
        return JudgeOutput(features, backend.to_numpy(log_p.data))


def save_classifier(classifier: Classifier, path: Path, accuracy: float, source: str) -> None:
    """Write a classifier, its accuracy, and the source of the test data."""
    save_model(classifier, path, {"accuracy": f"{accuracy}", "source": source})


def load_judge(path: Path = SHIPPED) -> Judge:
    """Return the judge stored in a file that train_classifier.py wrote; by default the package's.

    Raises InputError for any other file.
    """
    classifier, about = load_model(Classifier, path, "examples/train_classifier.py")
    try:
        name = f"{path.name}, {float(about['accuracy']):.2%} of {about['source']}"
    except (KeyError, ValueError) as error:
        raise InputError(
            f"{path} does not state its accuracy and source ({error!r}): give a file that "
            "examples/train_classifier.py wrote."
        ) from error
    return Judge(classifier, name)
