"""The network whose features the metrics compare, with its provenance.

judge.safetensors was written by `python examples/train_classifier.py` on MNIST's 60,000 training
digits. As long as nobody replaces it, FID means the same for everyone.
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


class Seen(NamedTuple):
    """What the judge makes of n pictures: features float32 [n, F], ln p(class) float64 [n, K]."""

    features: np.ndarray
    log_p: np.ndarray


class Judge:
    """A trained Classifier, and one line that says which one it is."""

    def __init__(self, classifier: Classifier, name: str):
        self.classifier, self.name = classifier, name

    @property
    def width(self) -> int:
        """F, the number of features."""
        return self.classifier.linear.weight.shape[0]

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return self.classifier.linear.weight.shape[1]

    def check_count(self, n: int, name: str) -> None:
        """Raise InputError if the features of n pictures span no covariance."""
        if n <= self.width:
            raise InputError(
                f"{name} holds {n} pictures, and a covariance of {self.width} features needs "
                f"{self.width + 1}: give more; 1,000 or better 10,000."
            )

    def look(self, images: np.ndarray) -> Seen:
        """Features and class probabilities of uint8 images [n, H, W, C]."""
        features = in_batches(self.classifier.features, images)
        with no_grad():
            logits = self.classifier.linear(Tensor(backend.xp.asarray(features)))
            log_p = log_softmax(Tensor(logits.data.astype("float64")))
        return Seen(features, backend.to_numpy(log_p.data))


def save_classifier(classifier: Classifier, path: Path, accuracy: float, source: str) -> None:
    """Write a classifier with what it is worth: its accuracy on test data, and which."""
    save_model(classifier, path, {"accuracy": f"{accuracy}", "source": source})


def load_judge(path: Path = SHIPPED) -> Judge:
    """The judge that is part of the package, or another one that train_classifier.py wrote.

    Raises InputError for a file that is not one.
    """
    classifier, about = load_model(Classifier, path, "examples/train_classifier.py")
    name = f"{path.name}, {float(about['accuracy']):.2%} of {about['source']}"
    return Judge(classifier, name)
