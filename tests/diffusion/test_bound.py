"""The variational bound against its definition, closed forms and a known likelihood."""

import math

import numpy as np
import pytest
from exact_bound import LEVELS, exact_bits, mp
from formulas import BETAS, T

from minddpm import GaussianDiffusion, Tensor, backend, gradcheck, random
from minddpm.diffusion import bound
from minddpm.diffusion.schedules import cosine, linear
from refusals import refused


def images(seed, N=3, shape=(2, 3, 1)):
    """Return N images of random pixel values in [-1, 1], on the device."""
    levels = np.random.default_rng(seed).integers(0, 256, (N, *shape))
    return backend.xp.asarray(LEVELS[levels].astype("float32"))


def noise_like(x, seed):
    """Return float32 standard normal numbers of the shape of x, on the device."""
    return backend.xp.asarray(
        np.random.default_rng(seed).standard_normal(x.shape).astype("float32")
    )


def imperfect_model(C_out):
    """Return a model whose output depends on x and t, differently in each channel."""

    def model(x, t):
        xp = backend.xp
        channels = [2 * xp.sin((1 + c) * x) - 0.05 * (1 + c) for c in range(C_out)]
        return xp.concatenate(channels, axis=-1)

    return model


# --- terms ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("schedule", [linear, cosine])
def test_terms_equal_their_definition(any_backend, prediction, variance, clip, schedule):
    d = GaussianDiffusion(schedule(T), prediction, variance, clip)
    model = imperfect_model(2 if variance == "learned_range" else 1)
    x0, t = images(0), np.array([0, 1, T - 1])
    x_t = d.q_sample(x0, t, noise_like(x0, 1))
    terms, pred_x0 = d.vb_terms_bpd(model, x0, x_t, t)
    assert terms.dtype == np.float64
    outputs, x0, x_t = (backend.to_numpy(a).astype(float) for a in (model(x_t, t), x0, x_t))
    for n in range(3):
        pixels = [
            exact_bits(d, output, *map(mp.mpf, (a, b)), int(t[n]))
            for output, a, b in zip(
                outputs[n].reshape(6, -1).tolist(), x0[n].ravel(), x_t[n].ravel(), strict=True
            )
        ]
        assert float(terms[n]) == pytest.approx(float(sum(pixels) / 6), rel=1e-6)
    assert bool((abs(pred_x0) <= 1).all()) == clip


def test_the_prior_term():
    """q(x_T | x0) is N(sqrt(ac) x0, 1 - ac): its divergence from N(0, 1)."""
    d, x0 = GaussianDiffusion(BETAS), images(0)
    ac = mp.fprod(1 - mp.mpf(float(b)) for b in BETAS)
    pixels = [(1 - ac - 1 - mp.log(1 - ac) + ac * float(x) ** 2) / 2 for x in x0[0].ravel()]
    expected = float(sum(pixels) / 6 / mp.log(2))
    assert d.prior_bpd(x0)[0] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("t", [1, 10, T - 1])
def test_terms_of_the_optimal_model_of_normal_data(any_backend, variance, t):
    """For data N(0, s^2), the variance of x0 given x_t is s^2 (1 - ac) / V,

    V = ac s^2 + 1 - ac, and the error of the optimal model's mean is coef1 times that of x0. With
    sigma^2 the variance of p and r the posterior variance divided by it, the average is

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
    error = coef1**2 * s**2 * (1 - ac) / (V * sigma2)
    expected = (ratio - 1 - math.log(ratio) + error) / 2 / math.log(2)

    x0 = s * noise_like(np.empty((N, 2, 2, 1)), 0)
    ts = np.full(N, t)
    x_t = d.q_sample(x0, ts, noise_like(x0, 1))
    terms = d.vb_terms_bpd(lambda x, t: math.sqrt(ac) * s**2 / V * x, x0, x_t, ts).terms
    terms = backend.to_numpy(terms)
    assert terms.mean() == pytest.approx(expected, abs=5 * terms.std() / math.sqrt(N))
    assert terms.std() / math.sqrt(N) < 0.02 * expected


# --- the bound -----------------------------------------------------------------------------------


def test_the_terms_add_up_to_the_bound(any_backend):
    d, x0 = GaussianDiffusion(BETAS, variance="learned_range"), images(0)
    result = d.bits_per_dim(imperfect_model(2), x0)
    assert result.terms.shape == (3, T)
    np.testing.assert_array_equal(result.total, result.prior + result.terms.sum(axis=1))
    np.testing.assert_array_equal(result.prior, d.prior_bpd(x0))
    for t in (0, 7):
        noise = random.normal(x0.shape, 0, random.BOUND, t)
        x_t = d.q_sample(x0, np.full(3, t), noise)
        term = d.vb_terms_bpd(imperfect_model(2), x0, x_t, np.full(3, t)).terms
        np.testing.assert_array_equal(result.terms[:, t], backend.to_numpy(term))


def test_a_batch_may_be_evaluated_in_parts():
    d, x0 = GaussianDiffusion(BETAS), images(0, N=5)
    for run in (
        lambda x, first: d.bits_per_dim(imperfect_model(1), x, seed=3, first=first).terms,
        lambda x, first: d.estimate_bits_per_dim(imperfect_model(1), x, 4, 3, first).terms,
    ):
        parts = np.concatenate([run(x0[:2], 0), run(x0[2:], 2)])
        np.testing.assert_allclose(parts, run(x0, 0), rtol=1e-12)


def test_the_estimate_is_unbiased():
    """For many copies of one image the mean lies within four standard errors."""
    d = GaussianDiffusion(BETAS)
    image = images(0, N=1)
    totals = [d.bits_per_dim(imperfect_model(1), image, seed=s).total[0] for s in range(40)]
    exact, spread = np.mean(totals), np.std(totals, ddof=1) / np.sqrt(len(totals))
    copies = np.repeat(image, 2000, axis=0)
    for k in (1, 5):
        estimate = d.estimate_bits_per_dim(imperfect_model(1), copies, k)
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
    """The optimal model of data whose likelihood is known: independent uniform pixels, 256 levels.

    Its prediction of x_0 from x_t is an average over the levels.
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
    """8 bits per pixel: no model can have fewer on average.

    The steps are small where there is little noise: there the reverse distribution is not normal,
    as it leads to one of few levels.
    """
    betas = np.geomspace(1e-6, 0.05, 1000)
    d = GaussianDiffusion(betas, "x0", "fixed_large")
    x0 = images(3, N=40, shape=(5, 5, 1))
    estimate = d.estimate_bits_per_dim(Pixels(betas), x0, 60)
    mean = estimate.total.mean()
    assert mean > 8.0 - 3 * estimate.standard_error
    assert mean < 8.7
    zeros = d.estimate_bits_per_dim(lambda x, t: 0 * x, x0, 60)
    assert zeros.total.mean() > mean + 1  # an untrained model has a larger bound


# --- losses --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_the_gradient_of_the_bound(prediction, variance):
    d = GaussianDiffusion(BETAS, prediction, variance, clip_x0=False)
    x0, t = images(0).astype(float), np.array([0, 1, 20])
    x_t = d.q_sample(x0, t, noise_like(x0, 1).astype(float))
    output = imperfect_model(2 if variance == "learned_range" else 1)(x_t, t)
    gradcheck(lambda y: bound.BoundTerm(d, x0, x_t, t, fixed_mean=False)(y), [output])


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
def test_behind_the_clip_the_gradient_is_that_at_the_border(prediction):
    """The process without a clip has the same loss and gradient where pred_x0 is the border."""
    clipped, free = (GaussianDiffusion(BETAS, prediction, clip_x0=c) for c in (True, False))
    x0, t = images(0).astype(float), np.array([0, 1, 20])
    x0[:, 0, 0] = -1  # black
    x_t = clipped.q_sample(x0, t, noise_like(x0, 1).astype(float))
    a, b = (c[t].reshape(3, 1, 1, 1) for c in (clipped.pred_x0_coef1, clipped.pred_x0_coef2))
    wanted = np.tile([-1.5, -0.9, 1.2], 2).reshape(1, 2, 3, 1) + np.zeros((3, 1, 1, 1))
    gradients, losses = [], []
    for d, pred_x0 in ((clipped, wanted), (free, wanted.clip(-1, 1))):
        output = Tensor((pred_x0 - a * x_t) / b, requires_grad=True)
        terms = bound.BoundTerm(d, x0, x_t, t, fixed_mean=False)(output)
        terms.sum().backward()
        losses.append(terms.data)
        gradients.append(output.grad)
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-9)
    np.testing.assert_allclose(gradients[0], gradients[1], rtol=1e-6, atol=1e-9)
    of_pred_x0 = gradients[0] / b
    np.testing.assert_allclose(of_pred_x0[1:, 0, 0], 0, atol=1e-9)  # black, and beyond it
    assert (of_pred_x0[1:, 1, 0] < 0).all()  # too black: a step against it leads back
    assert (of_pred_x0[1:, :, 2] > 0).all()  # too white


@pytest.mark.parametrize("clip", [True, False])
def test_the_vlb_loss_is_the_term_times_the_number_of_timesteps(clip):
    d = GaussianDiffusion(BETAS, variance="learned_range", clip_x0=clip)
    x0, t = images(0), np.array([0, 1, 20])
    noise = noise_like(x0, 1)
    terms = d.vb_terms_bpd(imperfect_model(2), x0, d.q_sample(x0, t, noise), t).terms
    losses = d.training_losses(imperfect_model(2), x0, t, noise, loss="vlb")
    assert losses.dtype == np.float32
    np.testing.assert_allclose(losses.data, T * terms, rtol=1e-6)


def test_the_hybrid_loss_trains_the_mean_by_mse_and_the_variance_by_the_bound(any_backend):
    d = GaussianDiffusion(BETAS, variance="learned_range", clip_x0=False)
    x0, t = images(0), np.array([0, 1, 20])
    noise = noise_like(x0, 1)
    x_t = d.q_sample(x0, t, noise)
    gradients, losses = {}, {}
    for loss in ("simple", "vlb", "hybrid"):
        output = Tensor(imperfect_model(2)(x_t, t))
        output.requires_grad = True
        losses[loss] = d.training_losses(lambda *_, y=output: y, x0, t, noise, loss=loss)
        losses[loss].sum().backward()
        gradients[loss] = backend.to_numpy(output.grad)
    values = {name: backend.to_numpy(loss.data) for name, loss in losses.items()}
    np.testing.assert_allclose(
        values["hybrid"], values["simple"] + 0.001 * values["vlb"], rtol=1e-5
    )
    np.testing.assert_array_equal(gradients["hybrid"][..., :1], gradients["simple"][..., :1])
    np.testing.assert_array_equal(gradients["simple"][..., 1:], 0)
    np.testing.assert_allclose(
        gradients["hybrid"][..., 1:], 0.001 * gradients["vlb"][..., 1:], rtol=1e-5
    )
    assert (gradients["vlb"][..., :1] != 0).all()


# --- bad input -----------------------------------------------------------------------------------


def test_bad_input_is_refused():
    fixed, learned = (
        GaussianDiffusion(BETAS, variance=v) for v in ("fixed_large", "learned_range")
    )
    x0, t = images(0), np.array([0, 1, 2])
    with refused("hybrid", "fixed_large", "learned_range"):
        fixed.training_losses(imperfect_model(2), x0, t, x0, loss="hybrid")
    with refused("(3, 2, 3, 2)", "1 output channels", "learned_range"):
        fixed.vb_terms_bpd(imperfect_model(2), x0, x0, t)
    with refused("(3, 2, 3, 1)", "2 output channels", "a fixed variance"):
        learned.p_mean_variance(imperfect_model(1), x0, t)
    with refused("unknown loss", "'kl'", "hybrid"):
        fixed.training_losses(imperfect_model(1), x0, t, x0, loss="kl")
    for k in (0, T):
        with refused(k, f"1 .. {T - 1}"):
            fixed.estimate_bits_per_dim(imperfect_model(1), x0, k)
