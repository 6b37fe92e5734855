"""Precision: do samples look like real images? Recall: do they cover all real images?"""

import numpy as np

from minddpm.errors import InputError
from minddpm.evaluation.metrics.nearest import kth_distance, squared_distances


def precision_recall(real: np.ndarray, generated: np.ndarray, k: int = 3) -> tuple[float, float]:
    """Return precision and recall: the share of points of one set that lie near the other set.

    real, generated: features [n, F], with about the same n. Precision counts generated points near
    real ones; recall counts real points near generated ones. Near means: inside the ball around a
    point whose radius is the distance to this point's k-th nearest neighbour in its own set.
    Blurred samples have high precision and low recall; noise has neither.
    Raises InputError for k or fewer images.
    Source: Kynkaanniemi et al. 2019, eqs. 1 and 2.
    """
    if min(len(real), len(generated)) <= k:
        raise InputError(f"precision with k={k}: give more than {k} images of each.")
    return _inside(generated, real, k), _inside(real, generated, k)


def _inside(points: np.ndarray, centres: np.ndarray, k: int) -> float:
    """Return the share of points that lie in the ball of at least one centre."""
    squared_radii = np.square(kth_distance(centres, k))
    inside = [(d <= squared_radii).any(axis=1) for d in squared_distances(points, centres)]
    return float(np.concatenate(inside).mean())
