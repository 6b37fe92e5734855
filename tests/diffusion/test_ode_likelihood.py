"""The likelihood by the probability-flow ODE against densities that are known in closed form."""

import math

import numpy as np
import pytest
from builders import TINY, random_unet
from exact_bound import LEVELS
from formulas import PREDICTIONS

from minddpm import GaussianDiffusion, Tensor, backend, random
from minddpm.autodiff import exp, log_softmax
from minddpm.diffusion import ode_likelihood
from minddpm.diffusion.ode_likelihood import decoder_bits, log_density, uniform_bits, velocity
from minddpm.diffusion.schedules import cosine, zero_terminal_snr
from minddpm.diffusion.thresholding import DynamicThreshold
from refusals import refused

T = 100


def process(prediction="epsilon", clip=False, **options):
    """Return a process at whose end nothing is left of the image: x_T is exactly N(0, I)."""
    return GaussianDiffusion(zero_terminal_snr(cosine(T)), prediction, clip_x0=clip, **options)


class Mixture:
    """The optimal model of data from a mixture of normal distributions with equal weights.

    means [K, D], one standard deviation s. Given component k, x_t is N(alpha m_k, V), V = alpha^2
    s^2 + sigma^2, and the mean of x0 is m_k + alpha s^2 (x_t - alpha m_k) / V; given x_t, component
    k has the probability softmax_k(-|x_t - alpha m_k|^2 / 2V).
    """

    def __init__(self, d, means, s):
        self.d, self.means, self.s = d, np.asarray(means, float), s
        self.angles = np.arccos(np.sqrt(d.alphas_cumprod))

    def __call__(self, x, t):
        """x: Tensor [N, 1, D, 1] of one t -> Tensor of the predicted kind."""
        (t,) = set(backend.to_numpy(t).tolist())
        phi = np.interp(t, np.arange(T), self.angles)
        a, b = math.cos(phi), math.sin(phi)
        V = a**2 * self.s**2 + b**2
        means = backend.xp.asarray(self.means.T[None, None])  # [1, 1, D, K]
        apart = x - Tensor(a * means)  # [N, 1, D, K]
        logits = -1 / (2 * V) * (apart * apart).sum(axis=2, keepdims=True)
        weights = exp(log_softmax(logits))
        nearest = (weights * Tensor(means)).sum(axis=3, keepdims=True)
        x0 = nearest + a * self.s**2 / V * (x - a * nearest)
        if self.d.prediction == "x0":
            return x0
        eps = (x - a * x0) * (1 / b)
        return eps if self.d.prediction == "epsilon" else a * eps - b * x0

    def log_density(self, x):
        """Return the exact log p of x at t = 0, float64 [N]."""
        ac = self.d.alphas_cumprod[0]
        V, D = ac * self.s**2 + 1 - ac, self.means.shape[1]
        squares = ((x.reshape(-1, 1, D) - math.sqrt(ac) * self.means) ** 2).sum(axis=2)
        logs = -squares / (2 * V) - D / 2 * math.log(2 * math.pi * V)
        return np.logaddexp.reduce(logs, axis=1) - math.log(len(self.means))


def points(*values):
    """Return images [N, 1, D, 1] of these points, on the device."""
    return backend.xp.asarray(np.array(values, float).reshape(len(values), 1, -1, 1))


# --- known densities -----------------------------------------------------------------------------


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_density_of_normal_data(any_backend, prediction):
    d = process(prediction)
    model = Mixture(d, [[0.3] * 6], 0.4)
    x = points(*np.random.default_rng(0).normal(0.3, 0.5, (5, 6)))
    p = log_density(d, model, x, steps=20)
    assert p.dtype == np.float64
    np.testing.assert_allclose(p, model.log_density(backend.to_numpy(x)), atol=1e-4)


@pytest.mark.parametrize("means", [[[-0.8], [0.7]], [[-0.5, 0.2], [0.6, 0.6], [0.1, -0.7]]])
def test_the_density_of_a_mixture(means):
    """In two dimensions the trace is estimated: many copies of each point, the mean of each."""
    d, copies = process(), 1 if len(means) == 2 else 200
    model, places = Mixture(d, means, 0.2), [*means, np.mean(means, axis=0)]
    x = points(*np.repeat(places, copies, axis=0))
    p = log_density(d, model, x, steps=20).reshape(len(places), copies)
    exact = model.log_density(points(*places))
    error = p.std(axis=1, ddof=1) / math.sqrt(copies) if copies > 1 else 0.0
    assert (abs(p.mean(axis=1) - exact) < 5 * error + 1e-4).all()
    assert np.max(error) < 0.02


def test_the_steps_are_of_fourth_order():
    """With twice the steps the error is 16 times smaller."""
    d = process()
    model, x = Mixture(d, [[0.2]], 0.4), points([0.3])
    exact = model.log_density(x)
    coarse, fine = (abs(log_density(d, model, x, steps) - exact)[0] for steps in (10, 20))
    assert 14 < coarse / fine < 18


# --- the velocity and its trace ------------------------------------------------------------------


@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize(
    ("prediction", "variance"),
    [("epsilon", "fixed_small"), ("x0", "learned_range"), ("v", "fixed_small")],
)
def test_the_jacobian_of_a_unet(prediction, variance, clip):
    """e^T dv/dx for all unit vectors e against differences of v, and its trace against signs."""
    d, phi, D, h = process(prediction, clip, variance=variance), 0.7, 64, 1e-6
    channels = 2 if variance == "learned_range" else 1
    unet = random_unet(TINY, scale=0.4, out_channels=channels).astype("float64")
    x = np.random.default_rng(1).standard_normal((1, 8, 8, 1))
    unit = np.eye(D).reshape(D, 8, 8, 1)

    v, rows = velocity(d, unet, np.repeat(x, D, axis=0), phi, unit)
    limited = abs(math.cos(phi) * x - math.sin(phi) * v[0]) > 1 - 1e-9  # pred_x0
    assert 0 < limited.mean() < 1 or not clip
    up, down = (velocity(d, unet, x + s * h * unit, phi, unit)[0] for s in (1, -1))
    jacobian = (up - down).reshape(D, D) / (2 * h)  # [j, i]: d v_i / d x_j
    np.testing.assert_allclose(rows.reshape(D, D), jacobian.T, atol=1e-6)

    n = 300
    e = ode_likelihood._signs(np.empty((n, 8, 8, 1)), 0, 0, 0)
    assert set(np.unique(e)) == {-1, 1}
    _, e_J = velocity(d, unet, np.repeat(x, n, axis=0), phi, e)
    traces = (e * e_J).sum(axis=(1, 2, 3))
    assert abs(traces.mean() - np.trace(jacobian)) < 5 * traces.std() / math.sqrt(n)
    assert traces.std() / math.sqrt(n) < 0.1 * abs(np.trace(jacobian))


# --- bits per dimension --------------------------------------------------------------------------


def level_images(count):
    """Return images of independent uniform levels, 8 bits a pixel, and their optimal model."""
    d = process("x0")
    levels = np.random.default_rng(0).integers(0, 256, (count, 1))
    # One pixel in each image: a mixture of 256 points without a width.
    return d, Mixture(d, LEVELS[:, None], 0.0), points(*LEVELS[levels])


def test_both_bounds_of_pixels_whose_bits_are_known():
    """The bounds equal their definitions, with the exact density, and lie above 8 bits."""
    d, model, x0 = level_images(100)
    alpha, sigma = math.sqrt(d.alphas_cumprod[0]), math.sqrt(1 - d.alphas_cumprod[0])
    steps, width = 25, 2 / 255
    uniform = uniform_bits(d, model, x0, steps)
    u = [random.uniform((1, 1, 1), 0, random.DEQUANTISE, i) for i in range(100)]
    x = alpha * (x0 + (np.array(u).reshape(x0.shape) - 0.5) * width)
    # P(level) is at least the mean over u of p(x0 + u) width, p(x0 + u) = alpha p(alpha (x0 + u)).
    np.testing.assert_allclose(
        uniform, -(model.log_density(x) + math.log(alpha * width)) / math.log(2), atol=1e-4
    )
    decoder = decoder_bits(d, model, x0, steps)
    noise = random.normal(x0.shape, 0, random.BOUND, 0)
    x = alpha * x0 + sigma * noise
    q = -(noise.ravel() ** 2) / 2 - math.log(sigma) - math.log(2 * math.pi) / 2
    L_0 = d.vb_terms_bpd(lambda x, t: model(Tensor(x), t), x0, x, np.zeros(100, int)).terms
    np.testing.assert_allclose(decoder, L_0 + (q - model.log_density(x)) / math.log(2), atol=1e-4)
    for bits in (uniform, decoder):
        assert 8 - 4 * bits.std() / math.sqrt(100) < bits.mean() < 8.5


def test_an_image_has_the_same_bits_in_any_batch():
    """Two pixels that depend on each other, so that the random signs matter."""
    d = process()
    model = Mixture(d, [[-0.5, 0.2], [0.6, 0.6], [0.1, -0.7]], 0.2)
    x0 = points(*LEVELS[np.random.default_rng(0).integers(0, 256, (5, 2))])
    for bits in (uniform_bits, decoder_bits):
        parts = [bits(d, model, x0[:2], 4, 3, 0), bits(d, model, x0[2:], 4, 3, 2)]
        whole = bits(d, model, x0, 4, 3)
        np.testing.assert_allclose(np.concatenate(parts), whole, rtol=1e-10)
        assert not np.allclose(bits(d, model, x0, 4, 4), whole)


def test_a_limit_without_a_derivative_is_refused():
    d, model, x0 = level_images(1)
    d.clip_x0 = DynamicThreshold(0.9, 2.0)
    with refused("clip_x0"):
        uniform_bits(d, model, x0, 2)
