"""The mean squared error; cross-entropy losses and log probabilities, computed without overflow.

Log probabilities are not computed from probabilities: for the logits 0 and -1000, log_softmax gives
-1000 for the second, whose softmax is 0 in floating point.
"""

from __future__ import annotations

import numpy as np

from minddpm import backend
from minddpm.autodiff.graph import Function, Tensor
from minddpm.autodiff.shape import sum as sum_over
from minddpm.backend import Array


class MeanSquaredErrors(Function):
    def __init__(self, target: Array):
        self.target = target

    def forward(self, x: Array) -> Array:
        self.save(x)
        return backend.kernels.mean_squared_errors(x, self.target)

    def backward(self, gy: Array) -> tuple[Array]:
        (x,) = self.saved
        return (backend.kernels.mean_squared_errors_backward(gy, x, self.target),)


def mean_squared_errors(x: Tensor, target: Array) -> Tensor:
    """Compute the mean of (x - target)^2 over each image: both [N, ...] -> [N].

    Raises ValueError if the shapes differ.
    """
    if x.shape != target.shape:
        raise ValueError(f"mean_squared_errors: x {x.shape} should have the shape {target.shape}")
    return MeanSquaredErrors(target)(x)


def sigmoid(x: Array) -> Array:
    """Compute 1 / (1 + e^-x) as 1/2 + tanh(x / 2) / 2, which cannot overflow."""
    return 0.5 + 0.5 * backend.xp.tanh(0.5 * x)


class Softplus(Function):
    def forward(self, x: Array) -> Array:
        xp = backend.xp
        self.save(x)
        # ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|): the exponent is never above zero
        return xp.maximum(x, 0) + xp.log1p(xp.exp(-xp.abs(x)))

    def backward(self, gy: Array) -> tuple[Array]:
        (x,) = self.saved
        return (gy * sigmoid(x),)  # d ln(1 + e^x) / dx = 1 / (1 + e^-x)


def softplus(x: Tensor) -> Tensor:
    """Compute ln(1 + e^x) = -ln sigmoid(-x), elementwise."""
    return Softplus()(x)


class LogSoftmax(Function):
    def forward(self, x: Array) -> Array:
        xp = backend.xp
        x = x - x.max(axis=-1, keepdims=True)  # same result, but no exponent is above zero
        y = x - xp.log(xp.exp(x).sum(axis=-1, keepdims=True))  # y_i = x_i - ln sum_j e^x_j
        self.save(y)
        return y

    def backward(self, gy: Array) -> tuple[Array]:
        (y,) = self.saved
        # dy_i / dx_j = delta_ij - softmax(x)_j, and softmax(x) = e^y
        return (gy - backend.xp.exp(y) * gy.sum(axis=-1, keepdims=True),)


def log_softmax(x: Tensor) -> Tensor:
    """Compute ln(e^x_i / sum_j e^x_j) over the last axis."""
    return LogSoftmax()(x)


def cross_entropy(logits: Tensor, labels: np.ndarray) -> Tensor:
    """Compute -ln softmax(logits)[label] of each row, in nats.

    logits [N, num_classes], labels int [N] -> [N].
    Raises ValueError if the shapes do not fit, or for a label outside 0 .. num_classes - 1.
    """
    labels = backend.to_numpy(labels)
    if logits.ndim != 2 or labels.shape != logits.shape[:1]:
        raise ValueError(
            f"cross_entropy: logits {logits.shape} and labels {labels.shape} should be "
            "[N, num_classes] and [N]"
        )
    num_classes = logits.shape[1]
    if labels.size and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f"cross_entropy: labels {labels.min()} .. {labels.max()} should be "
            f"0 .. {num_classes - 1}"
        )
    one_hot = np.arange(num_classes)[None, :] == labels[:, None]
    one_hot = backend.xp.asarray(one_hot.astype(logits.dtype))
    return -sum_over(log_softmax(logits) * one_hot, axis=1)


def binary_cross_entropy(logits: Tensor, target: Array) -> Tensor:
    """Compute -(y ln p + (1 - y) ln(1 - p)) with p = sigmoid(logit), elementwise, in nats.

    target: y in [0, 1], of the logits' shape. The result equals softplus(logit) - y logit.
    """
    return softplus(logits) - logits * target
