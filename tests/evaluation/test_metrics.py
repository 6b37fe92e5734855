"""The metrics against SciPy, closed forms, reimplementations of torchmetrics, and plain loops."""

import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg, stats

from minddpm.evaluation.metrics import (
    FeatureStatistics,
    frechet_distance,
    inception_score,
    kernel_inception_distance,
    nearest,
    polynomial_mmd,
    precision_recall,
)
from minddpm.evaluation.metrics.frechet import bootstrapped_error, trace_of_root
from refusals import refused

RNG = np.random.default_rng(0)


def features(n, F=6, shift=0.0, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, F)) @ rng.standard_normal((F, F)) + shift


def gaussian(mean, covariance):
    """Return statistics with exactly this mean and covariance."""
    s = FeatureStatistics()
    s.n, s.mean, s.scatter = 2, np.asarray(mean, float), np.asarray(covariance, float)
    return s


# --- streamed statistics -------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_batches_give_the_mean_and_covariance_of_all_vectors(sizes, seed):
    if sum(sizes) < 2:
        return
    x = features(sum(sizes), seed=seed) + 1e4  # far from zero, where sum x^2 - n mean^2 fails
    streamed, merged = FeatureStatistics(), FeatureStatistics()
    for batch in np.split(x, np.cumsum(sizes)[:-1]):
        streamed.add(batch)
        merged.merge(FeatureStatistics(batch))
    for s in (streamed, merged):
        assert s.n == len(x)
        np.testing.assert_allclose(s.mean, x.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(s.covariance, np.cov(x.T), rtol=1e-8, atol=1e-8)


def test_float32_features_are_summed_in_float64():
    x = (RNG.standard_normal((20000, 2)) * 0.01 + 100).astype(np.float32)
    s = FeatureStatistics(x)
    np.testing.assert_allclose(s.covariance, np.cov(x.astype(float).T), rtol=1e-10)


def test_wrong_features_are_refused():
    with refused("finite"):
        FeatureStatistics(np.full((3, 2), np.nan))
    with refused("[n, F]"):
        FeatureStatistics(np.zeros(3))
    s = FeatureStatistics(np.zeros((1, 2)))
    with refused("[n, F]"):
        s.add(np.zeros((1, 3)))
    with refused("at least two"):
        s.covariance  # noqa: B018


# --- FID -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("F", [1, 3, 64])
def test_fid_against_scipys_matrix_root(F):
    x, y = features(300, F, seed=1), features(200, F, shift=0.3, seed=2)
    S_x, S_y = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    expected = (
        np.square(x.mean(axis=0) - y.mean(axis=0)).sum()
        + np.trace(S_x + S_y - 2 * linalg.sqrtm(S_x @ S_y)).real
    )
    distance = frechet_distance(FeatureStatistics(x), FeatureStatistics(y))
    assert distance == pytest.approx(expected, rel=1e-9)
    assert distance == pytest.approx(
        frechet_distance(FeatureStatistics(y), FeatureStatistics(x)), rel=1e-9
    )


def test_fid_of_gaussians_that_commute():
    """Diagonal covariances: sum (m_a - m_b)^2 + (s_a - s_b)^2."""
    rng = np.random.default_rng(3)
    m, s = rng.standard_normal((2, 5)), rng.uniform(0, 2, (2, 5))
    Q, _ = np.linalg.qr(rng.standard_normal((5, 5)))  # rotated to other axes
    a, b = (gaussian(Q @ m[i], Q @ np.diag(s[i] ** 2) @ Q.T) for i in (0, 1))
    expected = np.square(m[0] - m[1]).sum() + np.square(s[0] - s[1]).sum()
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("n", [500, 64, 20, 2])  # singular up to n = 64
def test_fid_of_a_set_with_itself_is_zero(n):
    s = FeatureStatistics(features(n, 64) * 3)
    assert abs(frechet_distance(s, s)) < 1e-8


def test_fid_of_a_set_with_itself_where_features_do_not_vary():
    x = features(100, 6)
    x[:, 2] = 7
    x[:, 4] = x[:, 5]
    s = FeatureStatistics(x)
    assert abs(frechet_distance(s, s)) < 1e-8


def test_the_root_of_singular_covariances_of_different_directions():
    """With rank one each: Tr (a a^T b b^T)^(1/2) = |a . b|."""
    a, b = RNG.standard_normal((2, 5))
    assert trace_of_root(np.outer(a, a), np.outer(b, b)) == pytest.approx(abs(a @ b), rel=1e-6)


def test_real_images_among_the_samples_lower_fid_as_theory_says():
    """A mixture (1 - p) N(d, s^2) + p N(0, s^2) has variance s^2 + p (1 - p) d^2."""
    d, s, n = 2.0, 1.5, 400_000
    real, generated = stats.norm.rvs(size=(2, n, 1), random_state=np.random.default_rng(4)) * s
    generated += d
    reference = gaussian([0], [[s * s]])
    distances = []
    for p in (0, 0.25, 0.5, 0.75, 1):
        mixed = np.concatenate([generated[: int((1 - p) * n)], real[: int(p * n)]])
        mixture_deviation = math.sqrt(s * s + p * (1 - p) * d * d)
        expected = ((1 - p) * d) ** 2 + (mixture_deviation - s) ** 2
        distances.append(frechet_distance(reference, FeatureStatistics(mixed)))
        assert distances[-1] == pytest.approx(expected, rel=0.02, abs=1e-3)
    assert distances == sorted(distances, reverse=True)


def test_the_bias_of_fid_falls_as_one_over_n():
    """With n and 4 n draws of the reference itself; E is about Tr-terms / n for both moments."""
    reference = gaussian(np.zeros(8), np.eye(8))
    rng = np.random.default_rng(5)
    mean = [
        np.mean(
            [
                frechet_distance(reference, FeatureStatistics(rng.standard_normal((n, 8))))
                for _ in range(60)
            ]
        )
        for n in (100, 400)
    ]
    assert mean[0] / mean[1] == pytest.approx(4, rel=0.15)


def test_the_bootstrap_estimates_the_spread_of_other_draws():
    reference = gaussian(np.zeros(4), np.eye(4))
    rng = np.random.default_rng(6)
    draws = [rng.standard_normal((500, 4)) + 0.5 for _ in range(200)]
    spread = np.std([frechet_distance(reference, FeatureStatistics(x)) for x in draws])
    errors = [bootstrapped_error(reference, x) for x in draws[:5]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.2)
    assert bootstrapped_error(reference, draws[0]) == errors[0]
    assert bootstrapped_error(reference, draws[0], seed=1) != errors[0]


# --- Inception Score -----------------------------------------------------------------------------


def log_softmax(x):
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


def test_inception_score_against_the_definition():
    log_p = log_softmax(RNG.standard_normal((103, 5)))
    scores = []
    for part in np.array_split(np.exp(log_p), 10):
        marginal = part.mean(axis=0)
        scores.append(math.exp(np.mean([stats.entropy(p, marginal) for p in part])))
    value, error = inception_score(log_p)
    assert value == pytest.approx(np.mean(scores), rel=1e-12)
    assert error == pytest.approx(stats.sem(scores), rel=1e-12)
    assert math.isnan(inception_score(log_p, 1)[1])


def test_inception_score_of_the_extremes():
    certain = np.full((100, 10), -800.0)  # e^-800 is 0 in float64
    certain[np.arange(100), np.arange(100) % 10] = 0
    assert inception_score(certain, 10) == (pytest.approx(10), pytest.approx(0))
    assert inception_score(np.full((100, 10), -math.log(10)))[0] == pytest.approx(1)
    certain[:] = certain[0]
    assert inception_score(certain)[0] == pytest.approx(1)  # always the same digit


def test_wrong_probabilities_are_refused():
    with refused("fewer splits"):
        inception_score(np.zeros((3, 1)), 4)
    with refused("log_softmax"):
        inception_score(np.zeros((30, 2)))


# --- KID -----------------------------------------------------------------------------------------


def test_kid_against_a_double_loop():
    x, y = features(7, 3, seed=7), features(5, 3, seed=8)

    def k(a, b):
        return (np.dot(a, b) / 3 + 1) ** 3

    def among(z):
        return np.mean([k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j])

    expected = among(x) + among(y) - 2 * np.mean([k(a, b) for a in x for b in y])
    assert polynomial_mmd(x, y) == pytest.approx(expected, rel=1e-12)


def test_kid_has_no_bias():
    """For two draws of one distribution it is zero on average, unlike FID."""
    draws = (np.random.default_rng(i).standard_normal((2, 20, 3)) for i in range(2000))
    values = [polynomial_mmd(x, y) for x, y in draws]
    assert abs(np.mean(values)) < 3 * np.std(values) / math.sqrt(len(values))


def test_kid_in_blocks():
    x, y = features(50, 3, seed=9), features(37, 3, shift=0.2, seed=10)
    blocks = [polynomial_mmd(x[i : i + 10], y[i : i + 10]) for i in (0, 10, 20)]
    value, error = kernel_inception_distance(x, y, block=10)
    assert value == pytest.approx(np.mean(blocks))
    assert error == pytest.approx(np.std(blocks, ddof=1) / math.sqrt(3))
    value, error = kernel_inception_distance(x, y, block=100)
    assert value == pytest.approx(polynomial_mmd(x[:37], y))
    assert math.isnan(error)
    with refused("at least two"):
        kernel_inception_distance(x[:1], y)


# --- neighbours ----------------------------------------------------------------------------------


def test_the_nearest_against_all_distances():
    queries, references = features(300, 4, seed=11), features(40, 4, seed=12)
    d = np.linalg.norm(queries[:, None] - references[None], axis=2)
    indices, distances = nearest(queries, references)
    np.testing.assert_array_equal(indices, d.argmin(axis=1))
    np.testing.assert_allclose(distances, d.min(axis=1), rtol=1e-9)


def test_a_copy_is_found_at_distance_zero():
    references = RNG.random((50, 784))
    indices, distances = nearest(references[[3, 7]], references)
    assert indices.tolist() == [3, 7]
    assert distances.max() < 1e-6


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_against_plain_loops(k):
    real, generated = features(60, 3, seed=13), features(50, 3, shift=0.7, seed=14)

    def inside(points, centres):
        found = 0
        for p in points:
            for c in centres:
                radius = sorted(np.linalg.norm(centres - c, axis=1))[k]
                if np.linalg.norm(p - c) <= radius:
                    found += 1
                    break
        return found / len(points)

    expected = inside(generated, real), inside(real, generated)
    assert precision_recall(real, generated, k) == pytest.approx(expected)
    assert 0 < expected[0] != expected[1] < 1


def test_never_all_distances_at_once():
    n = 2000
    x = features(n)
    tracemalloc.start()
    try:
        precision_recall(x, x)
        nearest(x, x)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * n * n / 2, peak  # bytes; all distances would be 8 n^2


def test_precision_without_recall_and_the_reverse():
    real = features(400, 2, seed=15)
    one_mode = real[:1] + 1e-3 * features(400, 2, seed=16)
    precision, recall = precision_recall(real, one_mode)
    assert precision > 0.9
    assert recall < 0.1
    wide = real.mean(axis=0) + 30 * features(400, 2, seed=17)
    precision, recall = precision_recall(real, wide)
    assert precision < 0.1
    assert recall > 0.9
    with refused("more than 3"):
        precision_recall(real[:3], one_mode)
