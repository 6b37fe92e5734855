"""The nearest neighbours of vectors: by distance, block by block, never all at once."""

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

BLOCK = 128  # vectors at a time


def nearest(queries: np.ndarray, references: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The index int64 [m] of the nearest reference of each query, and its distance float64 [m].

    queries [m, P], references [n, P], any real numbers; distances are Euclidean. For pixels: has a
    sample been copied from the training set? Only beside the same for test digits, which nobody
    can have copied, do these distances say anything.
    """
    indices, distances = [], []
    for squared in squared_distances(queries, references):
        indices.append(squared.argmin(axis=1))
        distances.append(np.sqrt(squared.min(axis=1)))
    return np.concatenate(indices), np.concatenate(distances)


def kth_distance(features: np.ndarray, k: int) -> np.ndarray:
    """The distance of each vector of [n, F] to its k-th nearest other one, float64 [n]."""
    # The nearest of all is the vector itself. A view of the block's column would keep the block.
    parts = [np.partition(d, k, axis=1)[:, k].copy() for d in squared_distances(features, features)]
    return np.sqrt(np.concatenate(parts))


def squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[np.ndarray]:
    """|a_i - b_j|^2 = a_i^2 + b_j^2 - 2 a_i b_j, for BLOCK rows of a after the other, [.., n]."""
    # In float32, 784 pixels would leave four digits of a small difference of large squares.
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
