"""Precision and recall: are the pictures like real ones, and do they cover all of them?"""

import numpy as np

from minddpm.errors import InputError
from minddpm.evaluation.metrics.nearest import kth_distance, squared_distances


def precision_recall(real: np.ndarray, generated: np.ndarray, k: int = 3) -> tuple[float, float]:
    """The share of generated features among the real ones, and of real ones among the generated.

    real, generated: [n, F] of about equal n. A set is taken for the union of balls around its
    points, each reaching to the k-th nearest other point. Blurred pictures have precision but no
    recall; noise has neither. Raises InputError for k or fewer pictures.
    Source: Kynkaanniemi et al. 2019, eqs. 1 and 2.
    """
    if min(len(real), len(generated)) <= k:
        raise InputError(f"precision with k={k}: give more than {k} pictures of each.")
    return _inside(generated, real, k), _inside(real, generated, k)


def _inside(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    """The share of points that lie within the ball of some centre."""
    squared_radii = np.square(kth_distance(centres, k))
    inside = [(d <= squared_radii).any(axis=1) for d in squared_distances(points, centres)]
    return float(np.concatenate(inside).mean())
