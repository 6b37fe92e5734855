"""Inception Score: is each picture clearly something, and are all things there?"""

import math

import numpy as np

from minddpm.errors import InputError


def inception_score(log_p: np.ndarray, splits: int = 10) -> tuple[float, float]:
    """exp E_x KL(p(y|x) || p(y)): its mean over the splits, and the standard error of that mean.

    log_p: a classifier's ln p(y|x), [n, K], as log_softmax gives them. p(y) is the mean of p(y|x)
    over a split; the error is nan where there is only one. Between 1 (all pictures alike, or none
    clear) and K (all clear, classes equally often). It sees nothing of the real
    pictures: one perfect picture of each class gets K.
    Raises InputError for more splits than pictures, or what is no logarithm of a distribution.
    Source: Salimans et al. 2016, section 4; Barratt and Sharma 2018 on its weaknesses.
    """
    log_p = np.asarray(log_p, np.float64)
    if log_p.ndim != 2 or not 1 <= splits <= len(log_p):
        raise InputError(f"{log_p.shape} probabilities in {splits} splits: choose fewer splits.")
    p = np.exp(log_p)
    if not np.allclose(p.sum(axis=1), 1, atol=1e-4):
        raise InputError("the probabilities of a picture do not add up to 1: give log_softmax.")
    scores = []
    for part, log_part in zip(
        np.array_split(p, splits), np.array_split(log_p, splits), strict=True
    ):
        # KL = sum_y p (ln p - ln p(y)); where p has become 0, p ln p is 0, and so p(y) may be
        log_marginal = np.log(np.maximum(part.mean(axis=0), np.finfo(float).tiny))
        kl = np.where(part > 0, part * (log_part - log_marginal), 0).sum(axis=1)
        scores.append(np.exp(kl.mean()))
    error = np.std(scores, ddof=1) / math.sqrt(splits) if splits > 1 else math.nan
    return float(np.mean(scores)), float(error)
