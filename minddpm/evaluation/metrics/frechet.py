"""FID: how far two sets of features are apart, each taken for a Gaussian."""

from __future__ import annotations

import numpy as np

from minddpm import random
from minddpm.evaluation.metrics.statistics import FeatureStatistics


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """||mu_a - mu_b||^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)), the squared 2-Wasserstein distance.

    At least 0 up to rounding; 0 for equal sets. It is biased: for finite n it is larger than for
    n = infinity, so that only values of one n can be compared.
    Source: Heusel et al. 2017, eq. 6; Dowson and Landau 1982.
    """
    difference = a.mean - b.mean
    S_a, S_b = a.covariance, b.covariance
    return float(
        difference @ difference + np.trace(S_a) + np.trace(S_b) - 2 * trace_of_root(S_a, S_b)
    )


def trace_of_root(S_a: np.ndarray, S_b: np.ndarray) -> float:
    """Tr (S_a S_b)^(1/2) of two covariances [F, F], which may be singular.

    S_a S_b is not symmetric, but it has the eigenvalues of S_a^(1/2) S_b S_a^(1/2) = M M^T with
    M = S_a^(1/2) S_b^(1/2), and their roots are the singular values of M. The two roots are those
    of symmetric matrices, V diag(sqrt(lambda)) V^T. Taking the eigenvalues of M M^T and their
    square roots instead would make an error of 1e-16 one of 1e-8, for each direction that the
    pictures do not use.
    """
    return float(np.linalg.svd(_root(S_a) @ _root(S_b), compute_uv=False).sum())


def _root(S: np.ndarray) -> np.ndarray:
    """S^(1/2) of a symmetric positive semi-definite matrix."""
    values, V = np.linalg.eigh(S)
    return (V * np.sqrt(values.clip(0))) @ V.T  # rounding makes a zero eigenvalue -1e-17


def bootstrapped_error(
    real: FeatureStatistics, features: np.ndarray, rounds: int = 50, seed: int = 0
) -> float:
    """The standard error of frechet_distance(real, features [n, F]) that another draw would show.

    The pictures are drawn anew from themselves, with replacement (Efron 1979); the spread of the
    distances over the rounds is returned. `real` stays as it is: it is the same for all models.
    """
    n = len(features)
    values = []
    for i in range(rounds):
        chosen = random.integers(n, n, seed, random.BOOTSTRAP, i)
        values.append(frechet_distance(real, FeatureStatistics(features[chosen])))
    return float(np.std(values, ddof=1))
