"""The discrete decoder and the divergence of normals against their formulas in 60 digits."""

import math

import numpy as np
import pytest
from exact_bound import LEVELS, exact_probability, floats, mp
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpm.diffusion import bound, decoder

# --- the decoder ---------------------------------------------------------------------------------
level = st.integers(0, 255).map(lambda k: float(LEVELS[k]))


@settings(max_examples=300, deadline=None)
@given(x0=level, mean=st.floats(-2, 2), log_sigma=st.floats(-6.5, 3))
def test_the_decoder_far_in_its_tails(x0, mean, log_sigma):
    result = decoder.log_likelihood(*floats(x0, mean, log_sigma))[0]
    expected = float(mp.log(exact_probability(x0, mean, log_sigma)))
    assert result == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("log_sigma", [-7.0, -3.0, 0.0])
def test_the_probabilities_of_all_levels_sum_to_one(log_sigma):
    for mean in (-1.2, -1.0, 0.0, 0.3, 0.999, 1.0):
        shape = np.full(256, mean), np.full(256, log_sigma)
        assert np.exp(decoder.log_likelihood(LEVELS, *shape)).sum() == pytest.approx(1, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(x0=level, mean=st.floats(-1.5, 1.5), log_sigma=st.floats(-6, 2))
def test_the_gradients_of_the_decoder(x0, mean, log_sigma):
    gradients = decoder.log_likelihood_gradients(*floats(x0, mean, log_sigma))
    expected = [
        mp.diff(lambda m: mp.log(exact_probability(x0, m, log_sigma)), mean),
        mp.diff(lambda s: mp.log(exact_probability(x0, mean, s)), log_sigma),
    ]
    for gradient, value in zip(gradients, map(float, expected), strict=True):
        assert gradient[0] == pytest.approx(value, rel=1e-7, abs=1e-7)


def test_the_scaled_complementary_error_function():
    x = np.concatenate([np.linspace(0, 8, 101), np.logspace(1, 9, 30), [math.inf]])
    result = decoder.scaled_erfc(x)
    expected = [float(mp.exp(mp.mpf(a) ** 2) * mp.erfc(a)) for a in x[:-1]]
    np.testing.assert_allclose(result[:-1], expected, rtol=1e-13)
    assert result[-1] == 0


# --- the divergence ------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(mean1=st.floats(-3, 3), log1=st.floats(-9, 1), mean2=st.floats(-3, 3), log2=st.floats(-9, 1))
def test_the_divergence_of_two_normals(mean1, log1, mean2, log2):
    """log sigma2/sigma1 + (sigma1^2 + (mean1 - mean2)^2) / (2 sigma2^2) - 1/2."""
    m1, l1, m2, l2 = map(mp.mpf, (mean1, log1, mean2, log2))

    def exact(m2, l2):
        return (l2 - l1) / 2 + (mp.exp(l1) + (m1 - m2) ** 2) / (2 * mp.exp(l2)) - 0.5

    kl = bound.normal_kl(*floats(mean1, log1, mean2, log2))[0]
    assert kl == pytest.approx(float(exact(m2, l2)), rel=1e-11, abs=1e-15)
    mean_gradient, log_gradient = bound.normal_kl_gradients(*floats(mean1, log1, mean2, log2))
    expected = mp.diff(lambda m: exact(m, l2), m2), mp.diff(lambda v: exact(m2, v), l2)
    assert mean_gradient[0] == pytest.approx(float(expected[0]), rel=1e-9, abs=1e-12)
    assert log_gradient[0] == pytest.approx(float(expected[1]), rel=1e-9, abs=1e-12)


def test_the_divergence_of_nearly_equal_variances():
    """e^d - 1 - d is d^2 / 2 for a small d; computed from e^d it would cancel completely."""
    kl = bound.normal_kl(*floats(0.0, 1e-6, 0.0, 0.0))[0]
    assert kl == pytest.approx(1e-12 / 4, rel=1e-3)
