"""Compute mean and covariance of a stream of feature vectors in float64 without storing it."""

from __future__ import annotations

import numpy as np

from minddpm.errors import InputError


class FeatureStatistics:
    """n, mean [F] and covariance [F, F] of all vectors added.

    An instance stores the scatter matrix S = sum (x - mean)(x - mean)^T around the current mean. A
    batch b of m vectors is merged with the previous n by (Chan, Golub, LeVeque 1979, eq. 2.1)
        d = mean_b - mean
        S += S_b + d d^T n m / (n + m);  mean += d m / (n + m)
    The textbook formula S = sum x x^T - n mean mean^T is not used: as a small difference of two
    large numbers it would lose digits.
    """

    def __init__(self, features: np.ndarray | None = None):
        self.n = 0
        self.mean = np.zeros(0)
        self.scatter = np.zeros((0, 0))
        if features is not None:
            self.add(features)

    def add(self, features: np.ndarray) -> None:
        """Add a batch [m, F]. Raises InputError for another shape, or for NaN or infinity."""
        x = np.asarray(features, np.float64)
        if x.ndim != 2 or (self.n and x.shape[1] != len(self.mean)):
            raise InputError(f"features of shape {x.shape}: give [n, F], with the same F for all.")
        if not np.isfinite(x).all():
            raise InputError("a feature is not finite: look for NaN in the images.")
        mean = x.mean(axis=0) if len(x) else np.zeros(x.shape[1])
        centred = x - mean
        self._merge(len(x), mean, centred.T @ centred)

    def merge(self, other: FeatureStatistics) -> None:
        """Add all vectors of another instance."""
        self._merge(other.n, other.mean, other.scatter)

    def _merge(self, m: int, mean: np.ndarray, scatter: np.ndarray) -> None:
        if self.n == 0:
            self.n, self.mean, self.scatter = m, mean.copy(), scatter.copy()
        elif m:
            d, n = mean - self.mean, self.n + m
            self.scatter += scatter + np.outer(d, d) * (self.n * m / n)
            self.mean += d * (m / n)
            self.n = n

    @property
    def covariance(self) -> np.ndarray:
        """Return S / (n - 1), as numpy.cov does. Raises InputError for fewer than two vectors."""
        if self.n < 2:
            raise InputError(f"a covariance of {self.n} images: give at least two.")
        return self.scatter / (self.n - 1)
