"""FID: the distance between two sets of features, each approximated by a Gaussian."""

from __future__ import annotations

import numpy as np

from minddpm import random
from minddpm.evaluation.metrics.statistics import FeatureStatistics


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Return the squared 2-Wasserstein distance between two Gaussians.

    It is ||mu_a - mu_b||^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)): 0 for equal sets, and negative only
    by rounding. It is biased: its expectation is larger at finite n than at n = infinity, so
    compare only values at the same n. With the judge's features it is not Inception FID; do not
    compare it with published values.
    Source: Heusel et al. 2017, eq. 6; Dowson and Landau 1982.
    """
    difference = a.mean - b.mean
    S_a, S_b = a.covariance, b.covariance
    return float(
        difference @ difference + np.trace(S_a) + np.trace(S_b) - 2 * trace_of_root(S_a, S_b)
    )


def trace_of_root(S_a: np.ndarray, S_b: np.ndarray) -> float:
    """Return Tr (S_a S_b)^(1/2) of two covariances [F, F], which may be singular.

    S_a S_b is not symmetric, but it has the eigenvalues of S_a^(1/2) S_b S_a^(1/2) = M M^T with
    M = S_a^(1/2) S_b^(1/2). Their square roots are the singular values of M, which are summed here.
    S_a^(1/2) and S_b^(1/2) are roots of symmetric matrices, V diag(sqrt(lambda)) V^T. Taking square
    roots of the eigenvalues of M M^T instead would be inaccurate: in each direction in which the
    features do not vary, an eigenvalue of 1e-16 instead of 0 would add 1e-8.
    """
    return float(np.linalg.svd(_root(S_a) @ _root(S_b), compute_uv=False).sum())


def _root(S: np.ndarray) -> np.ndarray:
    """Return S^(1/2) of a symmetric positive semi-definite matrix."""
    values, V = np.linalg.eigh(S)
    return (V * np.sqrt(values.clip(0))) @ V.T  # rounding can turn a zero eigenvalue into -1e-17


def bootstrapped_error(
    real: FeatureStatistics, features: np.ndarray, rounds: int = 50, seed: int = 0
) -> float:
    """Return the bootstrap standard error of frechet_distance(real, features [n, F]).

    In each round n features are drawn with replacement (Efron 1979); the result is the standard
    deviation of the distance over the rounds. `real` is not resampled: it is the same for all
    models.
    """
    n = len(features)
    values = []
    for i in range(rounds):
        chosen = random.integers(n, n, seed, random.BOOTSTRAP, i)
        values.append(frechet_distance(real, FeatureStatistics(features[chosen])))
    return float(np.std(values, ddof=1))
