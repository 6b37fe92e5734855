"""The variational bound against formulas in 60 digits, closed forms, and a known likelihood."""

import math

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpm import GaussianDiffusion, Tensor, backend, gradcheck, random
from minddpm.diffusion import bound, decoder
from minddpm.diffusion.schedules import cosine, linear
from refusals import refused

T = 30
BETAS = linear(T)
LEVELS = np.arange(256) / 127.5 - 1
level = st.integers(0, 255).map(lambda k: float(LEVELS[k]))


@pytest.fixture(autouse=True)
def _many_digits():
    with mpmath.workdps(60):
        yield


def floats(*values):
    return [np.array([v]) for v in values]


# --- the decoder ---------------------------------------------------------------------------------


def exact_probability(x0, mean, log_sigma):
    """The integral of equation 13, by its definition."""
    mean, sigma = mpmath.mpf(mean), mpmath.exp(log_sigma)
    half = mpmath.mpf(decoder.HALF_BIN)
    lower = -mpmath.inf if x0 == -1 else (x0 - mean - half) / sigma
    upper = mpmath.inf if x0 == 1 else (x0 - mean + half) / sigma
    if lower + upper > 0:  # of two numbers near 1 even 60 digits would be cancelled
        lower, upper = -upper, -lower
    return mpmath.ncdf(upper) - mpmath.ncdf(lower)


@settings(max_examples=300, deadline=None)
@given(x0=level, mean=st.floats(-2, 2), log_sigma=st.floats(-6.5, 3))
def test_the_decoder_far_into_its_tails(x0, mean, log_sigma):
    got = decoder.log_likelihood(*floats(x0, mean, log_sigma))[0]
    expected = float(mpmath.log(exact_probability(x0, mean, log_sigma)))
    assert got == pytest.approx(expected, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("log_sigma", [-7.0, -3.0, 0.0])
def test_all_levels_together_are_certain(log_sigma):
    for mean in (-1.2, -1.0, 0.0, 0.3, 0.999, 1.0):
        shape = np.full(256, mean), np.full(256, log_sigma)
        assert np.exp(decoder.log_likelihood(LEVELS, *shape)).sum() == pytest.approx(1, abs=1e-9)


@settings(max_examples=100, deadline=None)
@given(x0=level, mean=st.floats(-1.5, 1.5), log_sigma=st.floats(-6, 2))
def test_the_gradients_of_the_decoder(x0, mean, log_sigma):
    got = decoder.log_likelihood_gradients(*floats(x0, mean, log_sigma))
    expected = [
        mpmath.diff(lambda m: mpmath.log(exact_probability(x0, m, log_sigma)), mean),
        mpmath.diff(lambda s: mpmath.log(exact_probability(x0, mean, s)), log_sigma),
    ]
    for one, wanted in zip(got, map(float, expected), strict=True):
        assert one[0] == pytest.approx(wanted, rel=1e-7, abs=1e-7)


def test_the_scaled_complementary_error_function():
    x = np.concatenate([np.linspace(0, 8, 101), np.logspace(1, 9, 30), [math.inf]])
    got = decoder.scaled_erfc(x)
    expected = [float(mpmath.exp(mpmath.mpf(a) ** 2) * mpmath.erfc(a)) for a in x[:-1]]
    np.testing.assert_allclose(got[:-1], expected, rtol=1e-13)
    assert got[-1] == 0


# --- the divergence ------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None)
@given(mean1=st.floats(-3, 3), log1=st.floats(-9, 1), mean2=st.floats(-3, 3), log2=st.floats(-9, 1))
def test_the_divergence_of_two_normals(mean1, log1, mean2, log2):
    """log sigma2/sigma1 + (sigma1^2 + (mean1 - mean2)^2) / (2 sigma2^2) - 1/2, in 60 digits."""
    m1, l1, m2, l2 = map(mpmath.mpf, (mean1, log1, mean2, log2))

    def exact(m2, l2):
        return (l2 - l1) / 2 + (mpmath.exp(l1) + (m1 - m2) ** 2) / (2 * mpmath.exp(l2)) - 0.5

    got = bound.normal_kl(*floats(mean1, log1, mean2, log2))[0]
    assert got == pytest.approx(float(exact(m2, l2)), rel=1e-11, abs=1e-15)
    by_mean, by_log = bound.normal_kl_gradients(*floats(mean1, log1, mean2, log2))
    expected = mpmath.diff(lambda m: exact(m, l2), m2), mpmath.diff(lambda v: exact(m2, v), l2)
    assert by_mean[0] == pytest.approx(float(expected[0]), rel=1e-9, abs=1e-12)
    assert by_log[0] == pytest.approx(float(expected[1]), rel=1e-9, abs=1e-12)


def test_nearly_equal_variances_are_told_apart():
    """e^d - 1 - d is d^2 / 2 for a small d; made of e^d, nothing would be left of it."""
    kl = bound.normal_kl(*floats(0.0, 1e-6, 0.0, 0.0))[0]
    assert kl == pytest.approx(1e-12 / 4, rel=1e-3)


# --- terms ---------------------------------------------------------------------------------------


def pictures(seed, N=3, shape=(2, 3, 1)):
    levels = np.random.default_rng(seed).integers(0, 256, (N, *shape))
    return backend.xp.asarray(LEVELS[levels].astype("float32"))


def noise_like(x, seed):
    return backend.xp.asarray(
        np.random.default_rng(seed).standard_normal(x.shape).astype("float32")
    )


def some_model(C_out):
    """Not a good one: its output depends on x and t, in every channel by itself."""

    def model(x, t):
        xp = backend.xp
        shares = [2 * xp.sin((1 + c) * x) - 0.05 * (1 + c) for c in range(C_out)]
        return xp.concatenate(shares, axis=-1)

    return model


def exact_bits(d, output, x0, x_t, t):
    """Of one pixel: the term by the definition, with output = (prediction, v) as numbers."""
    mpf = mpmath.mpf
    betas = [mpf(float(b)) for b in d.betas]
    ac = mpmath.fprod(1 - b for b in betas[: t + 1])
    ac_prev = mpmath.fprod(1 - b for b in betas[:t])
    beta = betas[t]
    prediction, *v = map(mpf, output)
    pred_x0 = {
        "epsilon": (x_t - mpmath.sqrt(1 - ac) * prediction) / mpmath.sqrt(ac),
        "x0": prediction,
        "v": mpmath.sqrt(ac) * x_t - mpmath.sqrt(1 - ac) * prediction,
    }[d.prediction]
    if d.clip_x0:
        pred_x0 = max(mpf(-1), min(mpf(1), pred_x0))

    def mean(picture):
        first = mpmath.sqrt(ac_prev) * beta / (1 - ac) * picture
        return first + mpmath.sqrt(1 - beta) * (1 - ac_prev) / (1 - ac) * x_t

    def posterior_variance(t):
        ac = mpmath.fprod(1 - b for b in betas[: t + 1])
        return betas[t] * (1 - mpmath.fprod(1 - b for b in betas[:t])) / (1 - ac)

    small = posterior_variance(max(t, 1))
    if v:
        log = (v[0] + 1) / 2 * mpmath.log(beta) + (1 - v[0]) / 2 * mpmath.log(small)
    else:
        log = mpmath.log(small if d.variance == "fixed_small" or t == 0 else beta)
    if t == 0:
        return -mpmath.log(exact_probability(x0, mean(pred_x0), log / 2)) / mpmath.log(2)
    ratio = small / mpmath.exp(log)
    apart = (mean(x0) - mean(pred_x0)) ** 2 / mpmath.exp(log)
    return (ratio - 1 - mpmath.log(ratio) + apart) / 2 / mpmath.log(2)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("schedule", [linear, cosine])
def test_terms_by_their_definition(any_backend, prediction, variance, clip, schedule):
    d = GaussianDiffusion(schedule(T), prediction, variance, clip)
    model = some_model(2 if variance == "learned_range" else 1)
    x0, t = pictures(0), np.array([0, 1, T - 1])
    x_t = d.q_sample(x0, t, noise_like(x0, 1))
    terms, pred_x0 = d.vb_terms_bpd(model, x0, x_t, t)
    assert terms.dtype == np.float64
    outputs, x0, x_t = (backend.to_numpy(a).astype(float) for a in (model(x_t, t), x0, x_t))
    for n in range(3):
        pixels = [
            exact_bits(d, output, *map(mpmath.mpf, (a, b)), int(t[n]))
            for output, a, b in zip(
                outputs[n].reshape(6, -1).tolist(), x0[n].ravel(), x_t[n].ravel(), strict=True
            )
        ]
        assert float(terms[n]) == pytest.approx(float(sum(pixels) / 6), rel=1e-6)
    assert bool((abs(pred_x0) <= 1).all()) == clip


def test_the_prior():
    """q(x_T | x0) is N(sqrt(ac) x0, 1 - ac): the divergence from N(0, 1) in 60 digits."""
    d, x0 = GaussianDiffusion(BETAS), pictures(0)
    ac = mpmath.fprod(1 - mpmath.mpf(float(b)) for b in BETAS)
    pixels = [(1 - ac - 1 - mpmath.log(1 - ac) + ac * float(x) ** 2) / 2 for x in x0[0].ravel()]
    expected = float(sum(pixels) / 6 / mpmath.log(2))
    assert d.prior_bpd(x0)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("t", [1, 10, T - 1])
def test_terms_of_the_best_model_of_normal_data(any_backend, variance, t):
    """Data N(0, s^2): what is left of x0 when x_t is known has the variance s^2 (1 - ac) / V,

    V = ac s^2 + 1 - ac, and the best model's mean is off by coef1 times that. So with sigma^2 the
    variance of p and r the posterior's share of it, on average

        L_{t-1} = ( r - 1 - log r + coef1^2 s^2 (1 - ac) / (V sigma^2) ) / 2.
    """
    s, N = 0.4, 4000
    d = GaussianDiffusion(BETAS, "x0", variance, clip_x0=False)
    beta, ac, prev = BETAS[t], np.prod(1 - BETAS[: t + 1]), np.prod(1 - BETAS[:t])
    V = ac * s**2 + 1 - ac
    small = beta * (1 - prev) / (1 - ac)
    sigma2 = small if variance == "fixed_small" else beta
    coef1 = math.sqrt(prev) * beta / (1 - ac)
    ratio = small / sigma2
    left = coef1**2 * s**2 * (1 - ac) / (V * sigma2)
    expected = (ratio - 1 - math.log(ratio) + left) / 2 / math.log(2)

    x0 = s * noise_like(np.empty((N, 2, 2, 1)), 0)
    ts = np.full(N, t)
    x_t = d.q_sample(x0, ts, noise_like(x0, 1))
    terms = d.vb_terms_bpd(lambda x, t: math.sqrt(ac) * s**2 / V * x, x0, x_t, ts).terms
    terms = backend.to_numpy(terms)
    assert terms.mean() == pytest.approx(expected, abs=5 * terms.std() / math.sqrt(N))
    assert terms.std() / math.sqrt(N) < 0.02 * expected


# --- the whole -----------------------------------------------------------------------------------


def test_the_parts_add_up(any_backend):
    d, x0 = GaussianDiffusion(BETAS, variance="learned_range"), pictures(0)
    whole = d.bits_per_dim(some_model(2), x0)
    assert whole.terms.shape == (3, T)
    np.testing.assert_array_equal(whole.total, whole.prior + whole.terms.sum(axis=1))
    np.testing.assert_array_equal(whole.prior, d.prior_bpd(x0))
    for t in (0, 7):
        noise = random.normal(x0.shape, 0, random.BOUND, t)
        x_t = d.q_sample(x0, np.full(3, t), noise)
        term = d.vb_terms_bpd(some_model(2), x0, x_t, np.full(3, t)).terms
        np.testing.assert_array_equal(whole.terms[:, t], backend.to_numpy(term))


def test_images_may_be_taken_in_parts():
    d, x0 = GaussianDiffusion(BETAS), pictures(0, N=5)
    for run in (
        lambda x, first: d.bits_per_dim(some_model(1), x, seed=3, first=first).terms,
        lambda x, first: d.estimate_bits_per_dim(some_model(1), x, 4, 3, first).terms,
    ):
        parts = np.concatenate([run(x0[:2], 0), run(x0[2:], 2)])
        np.testing.assert_allclose(parts, run(x0, 0), rtol=1e-12)


def test_the_estimate_is_unbiased():
    """Of many copies of one image: the mean lies within four of its standard errors."""
    d = GaussianDiffusion(BETAS)
    one = pictures(0, N=1)
    whole = [d.bits_per_dim(some_model(1), one, seed=s).total[0] for s in range(40)]
    exact, spread = np.mean(whole), np.std(whole, ddof=1) / np.sqrt(len(whole))
    copies = np.repeat(one, 2000, axis=0)
    for k in (1, 5):
        estimate = d.estimate_bits_per_dim(some_model(1), copies, k)
        error = math.hypot(estimate.standard_error, spread)
        assert abs(estimate.total.mean() - exact) < 4 * error
        assert estimate.standard_error < 0.1 * exact
        counts = np.bincount(estimate.t.ravel(), minlength=T)
        assert counts[0] == 0
        chances = bound.draw_chances(T)
        assert chances.sum() == pytest.approx(1)
        expected = 2000 * k * chances
        assert (np.abs(counts[1:] - expected) < 5 * np.sqrt(expected)).all()


class Pixels:
    """Data whose likelihood is known: each pixel by itself takes each of 256 levels as often.

    The best model of x_0 from x_t, which the bound needs, is an average over the levels.
    """

    bits = 8.0

    def __init__(self, betas):
        self.ac = np.cumprod(1 - betas)

    def __call__(self, x, t):
        ac = backend.to_numpy(self.ac[backend.to_numpy(t)]).reshape(-1, *(1,) * (x.ndim - 1), 1)
        x = backend.to_numpy(x)[..., None].astype(float)
        log = -((x - np.sqrt(ac) * LEVELS) ** 2) / (2 * (1 - ac))
        weights = np.exp(log - log.max(axis=-1, keepdims=True))
        return (weights * LEVELS).sum(axis=-1) / weights.sum(axis=-1)


def test_the_bound_is_above_the_likelihood_and_near_it():
    """8 bits for each pixel, less than which no model can do on average.

    The steps are fine ones where there is little noise: there the way back is not normal, as it
    leads to one of few levels.
    """
    betas = np.geomspace(1e-6, 0.05, 1000)
    d = GaussianDiffusion(betas, "x0", "fixed_large")
    x0 = pictures(3, N=40, shape=(5, 5, 1))
    estimate = d.estimate_bits_per_dim(Pixels(betas), x0, 60)
    mean = estimate.total.mean()
    assert mean > 8.0 - 3 * estimate.standard_error
    assert mean < 8.7
    zeros = d.estimate_bits_per_dim(lambda x, t: 0 * x, x0, 60)
    assert zeros.total.mean() > mean + 1  # a model that has learned nothing is further away


# --- what is trained -----------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_the_gradient_of_the_bound(prediction, variance):
    d = GaussianDiffusion(BETAS, prediction, variance)
    x0, t = pictures(0).astype(float), np.array([0, 1, 20])
    x_t = d.q_sample(x0, t, noise_like(x0, 1).astype(float))
    output = some_model(2 if variance == "learned_range" else 1)(x_t, t)
    gradcheck(lambda y: bound.BoundTerm(d, x0, x_t, t, fixed_mean=False)(y), [output])


def test_the_loss_of_the_bound_is_its_term_for_each_step():
    d = GaussianDiffusion(BETAS, variance="learned_range", clip_x0=False)
    x0, t = pictures(0), np.array([0, 1, 20])
    noise = noise_like(x0, 1)
    terms = d.vb_terms_bpd(some_model(2), x0, d.q_sample(x0, t, noise), t).terms
    losses = d.training_losses(some_model(2), x0, t, noise, loss="vlb")
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses.data, T * terms, rtol=1e-6)


def test_the_hybrid_loss_teaches_the_mean_by_squares_and_the_variance_by_the_bound(any_backend):
    d = GaussianDiffusion(BETAS, variance="learned_range")
    x0, t = pictures(0), np.array([0, 1, 20])
    noise = noise_like(x0, 1)
    x_t = d.q_sample(x0, t, noise)
    gradients, losses = {}, {}
    for loss in ("simple", "vlb", "hybrid"):
        output = Tensor(some_model(2)(x_t, t))
        output.requires_grad = True
        losses[loss] = d.training_losses(lambda *_, y=output: y, x0, t, noise, loss=loss)
        losses[loss].sum().backward()
        gradients[loss] = backend.to_numpy(output.grad)
    values = {name: backend.to_numpy(one.data) for name, one in losses.items()}
    np.testing.assert_allclose(
        values["hybrid"], values["simple"] + 0.001 * values["vlb"], rtol=1e-5
    )
    np.testing.assert_array_equal(gradients["hybrid"][..., :1], gradients["simple"][..., :1])
    np.testing.assert_array_equal(gradients["simple"][..., 1:], 0)
    np.testing.assert_allclose(
        gradients["hybrid"][..., 1:], 0.001 * gradients["vlb"][..., 1:], rtol=1e-5
    )
    assert (gradients["vlb"][..., :1] != 0).all()


# --- refusals ------------------------------------------------------------------------------------


def test_what_is_refused():
    fixed, learned = (
        GaussianDiffusion(BETAS, variance=v) for v in ("fixed_large", "learned_range")
    )
    x0, t = pictures(0), np.array([0, 1, 2])
    with refused("hybrid", "fixed_large", "learned_range"):
        fixed.training_losses(some_model(2), x0, t, x0, loss="hybrid")
    with refused("(3, 2, 3, 2)", "1 output channels", "learned_range"):
        fixed.vb_terms_bpd(some_model(2), x0, x0, t)
    with refused("(3, 2, 3, 1)", "2 output channels", "a fixed variance"):
        learned.p_mean_variance(some_model(1), x0, t)
    with refused("unknown loss", "'kl'", "hybrid"):
        fixed.training_losses(some_model(1), x0, t, x0, loss="kl")
    for k in (0, T):
        with refused(k, f"1 .. {T - 1}"):
            fixed.estimate_bits_per_dim(some_model(1), x0, k)
