"""Metrics of sample quality.

Read statistics.py (mean and covariance, streamed), frechet.py (FID), inception_score.py, kid.py,
precision_recall.py, nearest.py (memorisation), classification.py. judge.py has the network that
computes the features of digits, wavelets.py those of any other images, and inception.py those of
published FID values; ../report.py computes every metric with a floor and a ceiling.
"""

from minddpm.evaluation.metrics.frechet import frechet_distance
from minddpm.evaluation.metrics.inception_score import inception_score
from minddpm.evaluation.metrics.kid import kernel_inception_distance, polynomial_mmd
from minddpm.evaluation.metrics.nearest import nearest
from minddpm.evaluation.metrics.precision_recall import precision_recall
from minddpm.evaluation.metrics.statistics import FeatureStatistics

__all__ = [
    "FeatureStatistics",
    "frechet_distance",
    "inception_score",
    "kernel_inception_distance",
    "nearest",
    "polynomial_mmd",
    "precision_recall",
]
