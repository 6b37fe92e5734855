"""The VAE: its bound against closed forms and mpmath, its gradients, its training."""

import math

import mpmath
import numpy as np
import pytest
from builders import host, make_vae_loop, noise_images, tiny_vae
from scipy import stats

import minddpm
from minddpm import Tensor, backend, gradcheck, random
from minddpm.baselines.model_file import load_model, save_model
from minddpm.baselines.sampling import bound, reconstructions, sample_vae
from minddpm.baselines.vae.model import VAE, DiscretizedGaussian, active_units, normal_kl
from minddpm.baselines.vae.training import VAE_FILE, VAEOptions
from minddpm.data import to_float
from minddpm.diffusion import decoder
from minddpm.training.run_directory import STATE
from refusals import refused


def noise_for(n, seed=0):
    return random.normal((n, 3), seed, random.LATENT)  # 3 latent units, as tiny_vae has


# --- the bound -----------------------------------------------------------------------------------


def test_kl_against_an_integral():
    """Against the integral of q ln(q / p), to 30 digits."""
    for mean, log_variance in ((0.0, 0.0), (0.7, -1.3), (-2.0, 1.1), (0.01, -6.0)):
        m, s = mpmath.mpf(mean), mpmath.exp(mpmath.mpf(log_variance) / 2)

        def integrand(x, m=m, s=s):
            q = mpmath.npdf(x, m, s)
            return q * (-((x - m) ** 2) / (2 * s * s) - mpmath.log(s) + x * x / 2)

        with mpmath.workdps(30):
            expected = mpmath.quad(integrand, [m - 12 * s, m - s, m, m + s, m + 12 * s])
        kl = normal_kl(Tensor(np.array([mean])), Tensor(np.array([log_variance])))
        assert float(host(kl)[0]) == pytest.approx(float(expected), rel=1e-9, abs=1e-12)


@pytest.mark.usefixtures("any_backend")
def test_the_loss_is_the_sum_of_its_parts():
    vae, x = tiny_vae(), backend.xp.asarray(to_float(noise_images(5).images))
    for beta in (0.0, 1.0, 4.0):
        loss, reconstruction, kl = vae.elbo(x, noise_for(5), beta)
        np.testing.assert_allclose(
            host(loss), host(reconstruction) + beta * host(kl).sum(axis=1), rtol=1e-5
        )
        assert host(kl).shape == (5, 3)


def test_the_code_is_drawn_from_the_encoders_gaussian():
    vae, x, noise = tiny_vae(), to_float(noise_images(5).images), noise_for(5)
    # far from log variance 0, where e^(l/2), e^l and 1 are all alike
    vae.linear_log_variance.bias.data += np.array([-3.0, 1.5, 0.5], np.float32)
    mean, log_variance = (host(a).astype(float) for a in vae.encode(Tensor(x)))
    z = mean + np.sqrt(np.exp(log_variance)) * noise
    decoded = vae.decode(Tensor(z.astype(np.float32)))
    expected = host(vae.negative_log_likelihood(x, decoded)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(host(vae.elbo(x, noise).reconstruction), expected, rtol=1e-5)


def test_bernoulli_is_the_log_probability_of_white():
    vae, x = tiny_vae(), to_float(noise_images(3).images)
    minddpm.set_backend("numpy")
    logits = np.random.default_rng(1).standard_normal(x.shape).astype(np.float32)
    y, p = (x + 1) / 2, 1 / (1 + np.exp(-logits.astype(float)))
    expected = -(y * np.log(p) + (1 - y) * np.log(1 - p))
    nats = host(vae.negative_log_likelihood(x, Tensor(logits)))
    np.testing.assert_allclose(nats, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(vae.mean_image(Tensor(logits)), 2 * p - 1, atol=1e-6)


def test_gaussian_is_a_distribution_of_grey_levels():
    """All 256 levels together have probability 1, whatever mean and sigma."""
    levels = (2 * np.arange(256) / 255 - 1).reshape(256, 1, 1, 1)
    for mean, log_sigma in ((0.2, -2.0), (-1.5, 0.5), (0.999, -4.0)):
        nats = DiscretizedGaussian(levels)(
            Tensor(np.full(levels.shape, mean)), Tensor(np.array([log_sigma]))
        )
        assert np.exp(-host(nats)).sum() == pytest.approx(1, rel=1e-9)


def test_gradients_of_the_discretized_gaussian():
    rng = np.random.default_rng(2)
    x0 = to_float(rng.integers(0, 256, (2, 3), dtype=np.uint8)).astype(float)
    arrays = [rng.standard_normal((2, 3)), np.array([-1.0])]
    gradcheck(lambda mean, log_sigma: DiscretizedGaussian(x0)(mean, log_sigma), arrays)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_gradients_of_the_vae(likelihood):
    minddpm.set_backend("numpy")
    vae = tiny_vae(likelihood).astype("float64")
    x, noise = to_float(noise_images(2).images).astype(float), noise_for(2).astype(float)
    vae.elbo(x, noise, beta=0.7).loss.sum().backward()
    eps = 1e-5
    rng = np.random.default_rng(3)
    for name, p in vae.named_parameters():
        direction = rng.standard_normal(p.shape)
        values = []
        before = p.data.copy()
        for sign in (1, -1):
            p.data = before + sign * eps * direction
            values.append(host(vae.elbo(x, noise, beta=0.7).loss).sum())
        p.data = before
        numeric = (values[0] - values[1]) / (2 * eps)
        assert numeric == pytest.approx((p.grad * direction).sum(), rel=1e-5, abs=1e-7), name


def test_the_bound_is_below_the_likelihood_and_reaches_it_with_the_true_posterior():
    """A linear Gaussian model, whose likelihood is known: x = a z + sigma e, one pixel."""
    a, sigma, x = 0.8, 0.3, 0.4
    exact = stats.norm.logpdf(x, 0, math.sqrt(a * a + sigma * sigma))
    posterior_variance = 1 / (1 + (a / sigma) ** 2)
    posterior_mean = posterior_variance * a * x / sigma**2
    noise = np.random.default_rng(4).standard_normal(200_000)

    def elbo(mean, variance):
        z = mean + math.sqrt(variance) * noise
        kl = host(normal_kl(Tensor(np.array([mean])), Tensor(np.array([math.log(variance)]))))[0]
        return stats.norm.logpdf(x, a * z, sigma).mean() - kl

    assert elbo(posterior_mean, posterior_variance) == pytest.approx(exact, abs=2e-3)
    for mean, variance in ((0, 1), (posterior_mean, 0.5), (0.3, posterior_variance)):
        assert elbo(mean, variance) < exact - 0.01


def test_bound_of_a_data_set_does_not_depend_on_the_batch_size():
    vae, data = tiny_vae("gaussian"), noise_images(7)
    reconstruction, kl, codes = bound(vae, data, draws=3, batch_size=3)
    assert (reconstruction.shape, kl.shape, codes.shape) == ((7,), (7, 3), (7, 3))
    one_batch = bound(vae, data, draws=3, batch_size=100)
    for in_batches, at_once in zip((reconstruction, kl, codes), one_batch, strict=True):
        np.testing.assert_allclose(in_batches, at_once, rtol=1e-5, atol=1e-5)
    decoded = np.full((7, 8, 8, 1), 0.1)
    nats = host(vae.negative_log_likelihood(to_float(data.images), Tensor(decoded)))
    expected = -decoder.log_likelihood(to_float(data.images).astype(float), decoded, 0 * decoded)
    np.testing.assert_allclose(nats, expected, rtol=1e-6)


# --- collapse ------------------------------------------------------------------------------------


def test_active_units():
    codes = np.random.default_rng(5).standard_normal((1000, 4)) * [1, 0.2, 0.05, 0] + [0, 0, 0, 9]
    assert active_units(codes) == 2


def test_a_heavy_kl_makes_the_code_collapse(tmp_path):
    """With beta = 0 the code distinguishes images; with a large beta it carries no information."""
    active = {}
    for beta in (0.0, 1000.0):
        run = make_vae_loop(tmp_path / str(beta), 150, beta=beta, kl_warmup_steps=0, lr=1e-2)
        run.train(progress=False)
        active[beta] = active_units(bound(run.module, run.dataset)[2])
    assert active == {0.0: 3, 1000.0: 0}


def test_the_weight_of_the_kl_grows(tmp_path):
    run = make_vae_loop(tmp_path, beta=2.0, kl_warmup_steps=4)
    assert [run.beta(s) for s in (0, 1, 3, 4, 100)] == [0.5, 1.0, 2.0, 2.0, 2.0]
    run = make_vae_loop(tmp_path, beta=2.0, kl_warmup_steps=0)
    assert run.beta(0) == 2.0


# --- training ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("any_backend")
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_resuming_is_bit_exact(likelihood, tmp_path):
    make_vae_loop(tmp_path / "reference", likelihood=likelihood).train(progress=False)
    first = make_vae_loop(tmp_path / "parts", likelihood=likelihood)
    for _ in range(2):
        first.train_step()
    first.save()
    again = make_vae_loop(tmp_path / "parts", likelihood=likelihood)
    assert again.resume() == 2
    again.train(progress=False)
    assert (tmp_path / "parts" / STATE).read_bytes() == (
        tmp_path / "reference" / STATE
    ).read_bytes()
    assert (tmp_path / "parts" / VAE_FILE).is_file()


def test_every_backend_has_the_losses_of_numpy(any_backend, tmp_path):
    name = backend.active().name
    losses = {}
    for which in ("numpy", name):
        minddpm.set_backend(which)
        run = make_vae_loop(tmp_path / which)
        losses[which] = [float(host(run.train_step().means[0])) for _ in range(3)]
    assert losses[name] == pytest.approx(losses["numpy"], rel=1e-4)


def test_training_lowers_the_loss(tmp_path):
    run = make_vae_loop(tmp_path, 200, lr=1e-2)
    first = np.mean([float(host(run.train_step().means[0])) for _ in range(20)])
    for _ in range(160):
        run.train_step()
    last = np.mean([float(host(run.train_step().means[0])) for _ in range(20)])
    assert last < 0.98 * first


# --- samples and files ---------------------------------------------------------------------------


def test_a_sample_depends_on_seed_and_index_alone():
    vae = tiny_vae()
    many, few = sample_vae(vae, 300), sample_vae(vae, 5)
    assert many.shape == (300, 8, 8, 1)
    np.testing.assert_allclose(many[:5], few, atol=1e-5)
    assert (many[250:255] != few).any()
    assert np.abs(many).max() <= 1
    assert reconstructions(vae, noise_images(2).images).shape == (2, 8, 8, 1)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_saved_model_comes_back(likelihood, tmp_path):
    vae = tiny_vae(likelihood, seed=1)
    save_model(vae, tmp_path / VAE_FILE)
    again, _ = load_model(VAE, tmp_path / VAE_FILE, "train_vae.py")
    np.testing.assert_array_equal(sample_vae(vae, 2), sample_vae(again, 2))
    assert again.config == vae.config


def test_bad_input(tmp_path):
    with refused("laplace", "bernoulli or gaussian"):
        VAE(likelihood="laplace")
    with refused("size 9", "divisible by 4"):
        VAE(size=9)
    for option in ({"beta": -1.0}, {"kl_warmup_steps": -1}, {"beta": math.nan}):
        with refused(next(iter(option))):
            VAEOptions(**option)
    minddpm.UNet2D(**{**minddpm.SMALL, "sample_size": 28}).save_pretrained(tmp_path)
    with refused("no VAE", "train_vae.py"):
        load_model(VAE, tmp_path / "diffusion_pytorch_model.safetensors", "train_vae.py")
