"""Find nearest neighbours of vectors; compute distances block by block to save memory."""

from collections.abc import Iterator

import numpy as np

from minddpm.progress_bar import tqdm

BLOCK = 128  # query vectors per block


def nearest(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the index int64 [m] of each query's nearest reference, and its distance float64 [m].

    queries: [m, P], references: [n, P], any real numbers; distances are Euclidean. Distances
    between samples and training images show whether a model has copied its training set. Compare
    them with the distances of test digits, which no model can have copied.
    """
    indices, distances = [], []
    for squared in squared_distances(queries, references):
        indices.append(squared.argmin(axis=1))
        distances.append(np.sqrt(squared.min(axis=1)))
    return np.concatenate(indices), np.concatenate(distances)


def kth_distance(features: np.ndarray, k: int) -> np.ndarray:
    """Return the distance of each vector [n, F] to its k-th nearest neighbour, float64 [n]."""
    # Column 0 would be the vector itself. copy(): a view would keep the block's memory alive.
    parts = [np.partition(d, k, axis=1)[:, k].copy() for d in squared_distances(features, features)]
    return np.sqrt(np.concatenate(parts))


def squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """Yield |a_i - b_j|^2 = a_i^2 + b_j^2 - 2 a_i b_j, BLOCK rows of a at a time: [rows, n]."""
    # float64: in float32, a small difference of large squares has only four digits at 784 pixels.
    b = np.asarray(b, np.float64)
    b_squared = np.square(b).sum(axis=1)
    starts = range(0, len(a), BLOCK)
    for start in tqdm(starts, desc="neighbours", leave=False, disable=len(starts) < 8 or None):
        part = np.asarray(a[start : start + BLOCK], np.float64)
        squared = part @ b.T
        squared *= -2
        squared += b_squared
        squared += np.square(part).sum(axis=1)[:, None]
        yield np.maximum(squared, 0, out=squared)
