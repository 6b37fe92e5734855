"""The network whose features the metrics compare, with its provenance.

judge.safetensors was written by `python examples/train_classifier.py` on MNIST's 60,000 training
digits. As long as nobody replaces it, FID means the same for everyone.
"""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minddpm import backend
from minddpm.autodiff import Tensor, log_softmax, no_grad
from minddpm.checkpoint import load_torch_tensors, read_tensors, torch_tensors, write_tensors
from minddpm.errors import InputError
from minddpm.models.classifier import Classifier
from minddpm.trainers.classifier import in_batches

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
    """Write the weights in PyTorch's layout, with what they are: accuracy on test data, source."""
    about = {"config": json.dumps(classifier.config), "accuracy": f"{accuracy}", "source": source}
    write_tensors(path, torch_tensors(classifier), about)


def load_judge(path: Path = SHIPPED) -> Judge:
    """The judge that is part of the package, or another one that train_classifier.py wrote.

    Raises InputError for a file that is not one.
    """
    tensors, about = read_tensors(path)
    try:
        classifier = Classifier(**json.loads(about["config"]))
        accuracy = float(about["accuracy"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is no classifier of minddpm ({error!r}): give a classifier.safetensors that "
            "examples/train_classifier.py wrote."
        ) from error
    load_torch_tensors(classifier, tensors, path)
    name = f"{path.name}, {accuracy:.2%} of {about.get('source', 'unknown data')}"
    return Judge(classifier.eval(), name)
