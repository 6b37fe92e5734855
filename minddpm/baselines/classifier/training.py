"""Train the classifier on randomly shifted digits."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from minddpm import backend, random
from minddpm.autodiff import Tensor, cross_entropy, no_grad
from minddpm.backend import Array
from minddpm.baselines.classifier.model import Classifier
from minddpm.baselines.model_loop import ModelLoop
from minddpm.data import to_float
from minddpm.errors import InputError
from minddpm.training.options import LoopOptions


@dataclass(frozen=True)
class ClassifierOptions(LoopOptions):
    """Options of a classifier's training; default: three epochs of MNIST."""

    steps: int = 1400
    batch_size: int = 128
    lr: float = 4e-3
    ema_decay: float = 0.99
    cooldown: float = 1.0
    shift: int = field(default=2, metadata={"help": "largest shift of an image, in pixels"})

    def __post_init__(self) -> None:
        """Raise InputError for a value out of range."""
        super().__post_init__()
        if self.shift < 0:
            raise InputError(f"shift={self.shift}: choose 0 or more pixels.")


class ClassifierLoop(ModelLoop):
    """Trains a Classifier."""

    quantity_names = ("loss", "error")
    uses_labels = True

    def quantities(self, chosen: np.ndarray, step: int) -> tuple[Tensor, Array]:
        options = self.options
        images = shifted(self.dataset.images[chosen], options.shift, options.seed, step)
        labels = self.dataset.labels[chosen]
        logits = self.module(backend.xp.asarray(to_float(images)))
        errors = logits.data.argmax(axis=1) != backend.xp.asarray(labels)
        return cross_entropy(logits, labels), errors


def shifted(images: np.ndarray, most: int, seed: int, step: int) -> np.ndarray:
    """Return each image shifted by random -most .. most pixels along each axis, padded with 0.

    images: uint8 [N, H, W, C]. The shifts are a function of (seed, step).
    """
    N, H, W, _ = images.shape
    down, right = random.integers(2 * most + 1, 2 * N, seed, random.AUGMENT, step).reshape(2, N)
    padded = np.pad(images, ((0, 0), (most, most), (most, most), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (H, W), axis=(1, 2))
    return windows[np.arange(N), down, right].transpose(0, 2, 3, 1)


def in_batches(
    function: Callable[[Array], Tensor], images: np.ndarray, batch_size: int = 500
) -> np.ndarray:
    """Apply function to uint8 images [n, H, W, C] in batches; return the results on the host."""
    results = []
    with no_grad(), backend.kernels.constant_weights():
        for start in range(0, len(images), batch_size):
            x = backend.xp.asarray(to_float(images[start : start + batch_size]))
            results.append(backend.to_numpy(function(x).data))
    return np.concatenate(results)


def accuracy(classifier: Classifier, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of uint8 images [n, H, W, C] whose predicted class is their label."""
    return float((in_batches(classifier, images).argmax(axis=1) == labels).mean())
