"""The GAN: its losses, its spectral normalisation against SciPy, its training."""

import numpy as np
import pytest
from builders import host, make_gan_loop, tiny_gan
from scipy import special

import minddpm
from minddpm import Tensor, backend
from minddpm.baselines.gan.model import Generator, discriminator_loss, generator_loss
from minddpm.baselines.gan.training import GENERATOR_FILE, GANLoop, GANOptions
from minddpm.baselines.model_file import load_model
from minddpm.baselines.sampling import sample_generator
from minddpm.data import ImageDataset
from minddpm.training.loop import TrainingDivergedError
from minddpm.training.run_directory import LOSS, STATE, RunDirectory, read_loss
from refusals import refused

# --- losses --------------------------------------------------------------------------------------


def test_losses_are_log_probabilities_for_extreme_logits_too():
    real, fake = np.array([-3.0, 0.5, 200]), np.array([2.0, -0.1, -300])
    nats = host(discriminator_loss(Tensor(real), Tensor(fake)))
    expected = -special.log_expit(real) - special.log_expit(-fake)  # -log D(x) - log(1 - D(G))
    np.testing.assert_allclose(nats, expected, rtol=1e-12, atol=1e-300)
    nats = host(generator_loss(Tensor(fake)))
    np.testing.assert_allclose(nats, -special.log_expit(fake), rtol=1e-12)


def test_the_generator_has_a_gradient_where_the_discriminator_is_certain():
    logit = Tensor(np.array([-30.0]), requires_grad=True)
    generator_loss(logit).sum().backward()
    assert logit.grad[0] == pytest.approx(-1)


# --- spectral normalisation ----------------------------------------------------------------------


@pytest.mark.usefixtures("any_backend")
def test_power_iteration_finds_the_largest_singular_value():
    _, discriminator = tiny_gan()
    discriminator.improve_singular(rounds=200)
    for name, layer in discriminator.layers():
        matrix = host(layer.weight).reshape(-1, layer.weight.shape[-1])
        sigma = np.linalg.svd(matrix, compute_uv=False)[0]
        u = host(discriminator.singular[name])
        assert np.linalg.norm(matrix @ u) == pytest.approx(sigma, rel=1e-3)
        assert np.linalg.norm(u) == pytest.approx(1, rel=1e-5)


def test_logits_do_not_depend_on_the_norm_of_a_weight():
    _, discriminator = tiny_gan()
    x = Tensor(np.random.default_rng(1).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32))
    before = host(discriminator(x))
    for _, layer in discriminator.layers():
        layer.weight.data = host(layer.weight) * 7
    np.testing.assert_allclose(host(discriminator(x)), before, rtol=1e-4, atol=1e-5)


def test_every_step_improves_the_singular_vectors(tmp_path):
    """The weights change and their singular values are close, so the estimate never converges."""
    share = {}
    for improve in (True, False):
        run = make_gan_loop(tmp_path / str(improve), 60)
        run.discriminator.improve_singular(rounds=100)
        if not improve:
            run.discriminator.improve_singular = lambda: None
        for _ in range(40):
            run.train_step()
        for name in ("conv2", "conv3"):
            weight = host(getattr(run.discriminator, name).weight)
            matrix = weight.reshape(-1, weight.shape[-1])
            estimate = np.linalg.norm(matrix @ host(run.discriminator.singular[name]))
            share[name, improve] = estimate / np.linalg.svd(matrix, compute_uv=False)[0]
    for name in ("conv2", "conv3"):
        assert 0.8 < share[name, True] <= 1.001
        assert share[name, True] > share[name, False] + 0.02


# --- training ------------------------------------------------------------------------------------


def test_each_network_learns_from_its_own_loss_alone(tmp_path):
    run = make_gan_loop(tmp_path)
    generator, discriminator = (
        [host(p).copy() for p in m.parameters()] for m in (run.generator, run.discriminator)
    )
    run._discriminate(0)
    assert not any(host(p.grad).any() for p in run.generator.parameters())
    run.optimizer_d.step()
    run._zero_grad()
    for before, p in zip(generator, run.generator.parameters(), strict=True):
        np.testing.assert_array_equal(before, host(p))
    moved = [host(p).copy() for p in run.discriminator.parameters()]
    assert any((a != b).any() for a, b in zip(discriminator, moved, strict=True))
    run._generate(0)
    run.optimizer_g.step()
    run._zero_grad()
    for before, p in zip(moved, run.discriminator.parameters(), strict=True):
        np.testing.assert_array_equal(before, host(p))
    assert not any(host(p.grad).any() for p in run.discriminator.parameters())


@pytest.mark.usefixtures("any_backend")
def test_resuming_is_bit_exact(tmp_path):
    make_gan_loop(tmp_path / "reference").train(progress=False)
    first = make_gan_loop(tmp_path / "parts")
    for _ in range(2):
        first.train_step()
    first.save()
    again = make_gan_loop(tmp_path / "parts")
    assert again.resume() == 2
    again.train(progress=False)
    assert (tmp_path / "parts" / STATE).read_bytes() == (
        tmp_path / "reference" / STATE
    ).read_bytes()


def test_every_backend_has_the_losses_of_numpy(any_backend, tmp_path):
    name = backend.active().name
    losses = {}
    for which in ("numpy", name):
        minddpm.set_backend(which)
        run = make_gan_loop(tmp_path / which)
        losses[which] = [[float(host(x)) for x in run.train_step().means] for _ in range(3)]
    np.testing.assert_allclose(losses[name], losses["numpy"], rtol=1e-3)


def test_a_generator_learns_the_data(tmp_path):
    """Trained on white images alone, it soon generates nothing else."""
    data = ImageDataset(np.full((8, 8, 8, 1), 255, np.uint8), None, "white")
    options = GANOptions(steps=150, batch_size=8, lr=2e-3, lr_discriminator=4e-3, log_every=50)
    run = GANLoop(*tiny_gan(), data, RunDirectory(tmp_path), options)
    before = sample_generator(run.generator, 20).mean()
    run.train(progress=False)
    assert sample_generator(run.generator, 20).mean() > max(0.5, before + 0.3)


def test_the_log(tmp_path):
    run = make_gan_loop(tmp_path, steps=4)
    run.train(progress=False)
    rows = read_loss(tmp_path / LOSS, ("step", *run.columns))
    assert [row["step"] for row in rows] == [2, 4]
    assert all(0 < row["d_real"] < 1 and 0 < row["d_fake"] < 1 for row in rows)
    assert rows[0]["lr"] == 2e-4


def test_divergence_is_reported(tmp_path):
    run = make_gan_loop(tmp_path)
    run.generator.linear.bias.data = np.full(run.generator.linear.bias.shape, np.nan)
    with pytest.raises(TrainingDivergedError, match="--lr below"):
        run.train(progress=False)


def test_a_gradient_that_is_not_finite_is_reported(tmp_path, monkeypatch):
    # Adam skips such a step, so that the loss alone would not show it.
    for name in ("_discriminate", "_generate"):
        run = make_gan_loop(tmp_path / name)
        which = "discriminator" if name == "_discriminate" else "generator"
        optimizer = run.optimizer_d if which == "discriminator" else run.optimizer_g
        original = getattr(run, name)

        def overflow(step, original=original, optimizer=optimizer):
            result = original(step)
            optimizer.flat.grad[0] = np.inf
            return result

        monkeypatch.setattr(run, name, overflow)
        with pytest.raises(TrainingDivergedError, match=f"step 0: grad_norm_{which} is"):
            run.train(progress=False)


def test_warm_up_and_weight_decay_apply_to_both(tmp_path):
    run = make_gan_loop(tmp_path / "a", warmup_steps=4, lr=1e-3, lr_discriminator=2e-3)
    run.train_step()
    assert (run.optimizer_g.lr, run.optimizer_d.lr) == (1e-3 / 4, 2e-3 / 4)
    light, heavy = (
        make_gan_loop(tmp_path / f"{decay}", weight_decay=decay) for decay in (0.0, 10.0)
    )
    for one in (light, heavy):
        one.train_step()
    for network in ("generator", "discriminator"):
        lengths = [
            sum(float(np.square(host(p)).sum()) for p in getattr(one, network).parameters())
            for one in (light, heavy)
        ]
        assert lengths[1] < lengths[0], network


# --- samples and files ---------------------------------------------------------------------------


def test_a_sample_depends_on_seed_and_index_alone():
    generator, _ = tiny_gan()
    many, few = sample_generator(generator, 300), sample_generator(generator, 5)
    np.testing.assert_allclose(many[:5], few, atol=1e-5)
    assert (many[250:255] != few).any()
    assert np.abs(many).max() <= 1
    assert (sample_generator(generator, 5, seed=1) != few).any()


def test_a_saved_generator_comes_back(tmp_path):
    run = make_gan_loop(tmp_path, steps=2)
    run.train(progress=False)
    again, _ = load_model(Generator, tmp_path / GENERATOR_FILE, "train_gan.py")
    with run.ema.applied():
        np.testing.assert_array_equal(
            sample_generator(run.generator, 3), sample_generator(again, 3)
        )


def test_bad_input():
    with refused("size 9", "divisible by 4"):
        Generator(size=9)
    with refused("width 12", "divisible by groups"):
        Generator(width=12)
    with refused("lr_discriminator=0"):
        GANOptions(lr_discriminator=0)
    with refused("beta1=1"):
        GANOptions(beta1=1)
