"""Inception Score: is the class of each image clear, and do all classes occur?"""

import math

import numpy as np

from minddpm.errors import InputError


def inception_score(log_p: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """Return the mean over the splits of exp E_x KL(p(y|x) || p(y)), and its standard error.

    log_p: a classifier's ln p(y|x), [n, num_classes], as log_softmax returns it. p(y) is the mean
    of p(y|x) over a split; the error is nan for a single split. The score is 1 if all images have
    the same p(y|x), and num_classes if the class of every image is certain and all classes are
    equally frequent. It ignores the real images: one perfect image of each class reaches
    num_classes.
    Raises InputError for more splits than images, or if exp(log_p) is not a distribution.
    Source: Salimans et al. 2016, section 4; Barratt and Sharma 2018 on its weaknesses.
    """
    log_p = np.asarray(log_p, np.float64)
    if log_p.ndim != 2 or not 1 <= splits <= len(log_p):
        raise InputError(
            f"probabilities of shape {log_p.shape} in {splits} splits: choose fewer splits."
        )
    p = np.exp(log_p)
    if not np.allclose(p.sum(axis=1), 1, atol=1e-4):
        raise InputError(
            "the probabilities of an image do not add up to 1: give the result of log_softmax."
        )
    scores = []
    for part, log_part in zip(
        np.array_split(p, splits), np.array_split(log_p, splits), strict=True
    ):
        # KL = sum_y p (ln p - ln p(y)). p and p(y) may underflow to 0; p ln p is then 0.
        log_marginal = np.log(np.maximum(part.mean(axis=0), np.finfo(float).tiny))
        kl = np.where(part > 0, part * (log_part - log_marginal), 0).sum(axis=1)
        scores.append(np.exp(kl.mean()))
    error = np.std(scores, ddof=1) / math.sqrt(splits) if splits > 1 else math.nan
    return float(np.mean(scores)), float(error)
