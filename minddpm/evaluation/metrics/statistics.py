"""Mean and covariance of a stream of feature vectors, in float64, without keeping the stream."""

from __future__ import annotations

import numpy as np

from minddpm.errors import InputError


class FeatureStatistics:
    """n, mean [F] and covariance [F, F] of all vectors that were added.

    What is kept is the scatter matrix S = sum (x - mean)(x - mean)^T around the mean so far. A
    batch b of m vectors joins the n before it by (Chan, Golub, LeVeque 1979, eq. 2.1)
        d = mean_b - mean
        S += S_b + d d^T n m / (n + m);  mean += d m / (n + m)
    The textbook's sum x x^T - n mean mean^T would subtract two large numbers to get a small one.
    """

    def __init__(self, features: np.ndarray | None = None):
        self.n = 0
        self.mean = np.zeros(0)
        self.scatter = np.zeros((0, 0))
        if features is not None:
            self.add(features)

    def add(self, features: np.ndarray) -> None:
        """Take in a batch [m, F]. Raises InputError for another shape, or for NaN or infinity."""
        x = np.asarray(features, np.float64)
        if x.ndim != 2 or (self.n and x.shape[1] != len(self.mean)):
            raise InputError(f"features of shape {x.shape}: give [n, F], with one F for all.")
        if not np.isfinite(x).all():
            raise InputError("a feature is not a finite number: look for NaN in the pictures.")
        mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
        centred = x - mean
        self._join(len(x), mean, centred.T @ centred)

    def merge(self, other: FeatureStatistics) -> None:
        """Take in all that another one has seen."""
        self._join(other.n, other.mean, other.scatter)

    def _join(self, m: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if self.n == 0:
            self.n, self.mean, self.scatter = m, mean.copy(), scatter.copy()
        elif m:
            d, n = mean - self.mean, self.n + m
            self.scatter += scatter + np.outer(d, d) * (self.n * m / n)
            self.mean += d * (m / n)
            self.n = n

    @property
    def covariance(self) -> np.ndarray:
        """S / (n - 1), as numpy.cov. Raises InputError for fewer than two vectors."""
        if self.n < 2:
            raise InputError(f"a covariance of {self.n} pictures: give at least two.")
        return self.scatter / (self.n - 1)
