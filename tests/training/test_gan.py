"""The GAN: its losses, its spectral normalisation against SciPy, its training."""

import numpy as np
import pytest
from scipy import special

import minddpm
from minddpm import Tensor, backend
from minddpm.baselines.gan.model import Discriminator, Generator, discriminator_loss, generator_loss
from minddpm.baselines.gan.training import FILE, GANLoop, GANOptions
from minddpm.baselines.model_file import load_model
from minddpm.baselines.sampling import from_generator
from minddpm.data import ImageDataset
from minddpm.training.loop import TrainingDivergedError
from minddpm.training.run_directory import LOSS, STATE, RunDirectory, read_loss
from refusals import refused

TINY = {"size": 8, "width": 8}


def digits(n=12, size=8, seed=0):
    images = np.random.default_rng(seed).integers(0, 256, (n, size, size, 1), dtype=np.uint8)
    return ImageDataset(images, None, "noise")


def networks(seed=0):
    minddpm.manual_seed(seed)
    return Generator(**TINY, latent=3, groups=2), Discriminator(**TINY)


def loop(path, steps=4, **options):
    chosen = {"batch_size": 4, "log_every": 2, "checkpoint_every": 2, **options}
    return GANLoop(*networks(), digits(), RunDirectory(path), GANOptions(steps=steps, **chosen))


def host(x):
    return backend.to_numpy(x.data if isinstance(x, Tensor) else x)


# --- losses --------------------------------------------------------------------------------------


def test_losses_are_log_probabilities_far_out_too():
    real, fake = np.array([-3.0, 0.5, 200]), np.array([2.0, -0.1, -300])
    told = host(discriminator_loss(Tensor(real), Tensor(fake)))
    expected = -special.log_expit(real) - special.log_expit(-fake)  # -log D(x) - log(1 - D(G))
    np.testing.assert_allclose(told, expected, rtol=1e-12, atol=1e-300)
    told = host(generator_loss(Tensor(fake)))
    np.testing.assert_allclose(told, -special.log_expit(fake), rtol=1e-12)


def test_the_generator_has_a_slope_where_the_discriminator_is_sure():
    logit = Tensor(np.array([-30.0]), requires_grad=True)
    generator_loss(logit).sum().backward()
    assert logit.grad[0] == pytest.approx(-1)


# --- spectral normalisation ----------------------------------------------------------------------


@pytest.mark.usefixtures("any_backend")
def test_power_iteration_finds_the_largest_singular_value():
    _, discriminator = networks()
    discriminator.improve_singular(rounds=200)
    for name, layer in discriminator.layers():
        matrix = host(layer.weight).reshape(-1, layer.weight.shape[-1])
        sigma = np.linalg.svd(matrix, compute_uv=False)[0]
        u = host(discriminator.singular[name])
        assert np.linalg.norm(matrix @ u) == pytest.approx(sigma, rel=1e-3)
        assert np.linalg.norm(u) == pytest.approx(1, rel=1e-5)


def test_the_verdict_does_not_depend_on_the_length_of_a_weight():
    _, discriminator = networks()
    x = Tensor(np.random.default_rng(1).uniform(-1, 1, (3, 8, 8, 1)).astype(np.float32))
    before = host(discriminator(x))
    for _, layer in discriminator.layers():
        layer.weight.data = host(layer.weight) * 7
    np.testing.assert_allclose(host(discriminator(x)), before, rtol=1e-4, atol=1e-5)


def test_every_step_improves_the_guess(tmp_path):
    """Weights move, and their singular values are close to each other: it is never quite there."""
    share = {}
    for improve in (True, False):
        run = loop(tmp_path / str(improve), 60)
        run.discriminator.improve_singular(rounds=100)
        if not improve:
            run.discriminator.improve_singular = lambda: None
        for _ in range(40):
            run.train_step()
        for name in ("conv2", "conv3"):
            weight = host(getattr(run.discriminator, name).weight)
            matrix = weight.reshape(-1, weight.shape[-1])
            guess = np.linalg.norm(matrix @ host(run.discriminator.singular[name]))
            share[name, improve] = guess / np.linalg.svd(matrix, compute_uv=False)[0]
    for name in ("conv2", "conv3"):
        assert 0.8 < share[name, True] <= 1.001
        assert share[name, True] > share[name, False] + 0.02


# --- training ------------------------------------------------------------------------------------


def test_each_network_learns_from_its_own_loss_alone(tmp_path):
    run = loop(tmp_path)
    generator, discriminator = (
        [host(p).copy() for p in m.parameters()] for m in (run.generator, run.discriminator)
    )
    run._discriminate(0)
    assert not any(host(p.grad).any() for p in run.generator.parameters())
    run.optimizer_d.step()
    run._forget()
    for before, p in zip(generator, run.generator.parameters(), strict=True):
        np.testing.assert_array_equal(before, host(p))
    moved = [host(p).copy() for p in run.discriminator.parameters()]
    assert any((a != b).any() for a, b in zip(discriminator, moved, strict=True))
    run._generate(0)
    run.optimizer_g.step()
    run._forget()
    for before, p in zip(moved, run.discriminator.parameters(), strict=True):
        np.testing.assert_array_equal(before, host(p))
    assert not any(host(p.grad).any() for p in run.discriminator.parameters())


@pytest.mark.usefixtures("any_backend")
def test_two_halves_are_the_whole_bit_for_bit(tmp_path):
    loop(tmp_path / "whole").train(progress=False)
    half = loop(tmp_path / "half")
    for _ in range(2):
        half.train_step()
    half.save()
    again = loop(tmp_path / "half")
    assert again.resume() == 2
    again.train(progress=False)
    assert (tmp_path / "half" / STATE).read_bytes() == (tmp_path / "whole" / STATE).read_bytes()


def test_every_backend_has_the_losses_of_numpy(any_backend, tmp_path):
    name = backend.active().name
    losses = {}
    for which in ("numpy", name):
        minddpm.set_backend(which)
        run = loop(tmp_path / which)
        losses[which] = [[float(host(x)) for x in run.train_step().means] for _ in range(3)]
    np.testing.assert_allclose(losses[name], losses["numpy"], rtol=1e-3)


def test_a_generator_finds_where_the_pictures_are(tmp_path):
    """Of pictures that are all white it soon makes nothing else."""
    data = ImageDataset(np.full((8, 8, 8, 1), 255, np.uint8), None, "white")
    options = GANOptions(steps=150, batch_size=8, lr=2e-3, lr_discriminator=4e-3, log_every=50)
    run = GANLoop(*networks(), data, RunDirectory(tmp_path), options)
    before = from_generator(run.generator, 20).mean()
    run.train(progress=False)
    assert from_generator(run.generator, 20).mean() > max(0.5, before + 0.3)


def test_the_log(tmp_path):
    run = loop(tmp_path, steps=4)
    run.train(progress=False)
    rows = read_loss(tmp_path / LOSS, ("step", *run.columns))
    assert [row["step"] for row in rows] == [2, 4]
    assert all(0 < row["d_real"] < 1 and 0 < row["d_fake"] < 1 for row in rows)
    assert rows[0]["lr"] == 2e-4


def test_divergence_is_told(tmp_path):
    run = loop(tmp_path)
    run.generator.linear.bias.data = np.full(run.generator.linear.bias.shape, np.nan)
    with pytest.raises(TrainingDivergedError, match="smaller --lr"):
        run.train(progress=False)


def test_a_gradient_that_is_not_finite_is_told(tmp_path, monkeypatch):
    # Adam leaves such a step out, so that the loss alone would never tell.
    for name in ("_discriminate", "_generate"):
        run = loop(tmp_path / name)
        which = "discriminator" if name == "_discriminate" else "generator"
        optimizer = run.optimizer_d if which == "discriminator" else run.optimizer_g
        whole = getattr(run, name)

        def broken(step, whole=whole, optimizer=optimizer):
            made = whole(step)
            optimizer.flat.grad[0] = np.inf
            return made

        monkeypatch.setattr(run, name, broken)
        with pytest.raises(TrainingDivergedError, match=f"step 0: grad_norm_{which} is"):
            run.train(progress=False)


def test_warm_up_and_weight_decay_are_of_both(tmp_path):
    run = loop(tmp_path / "a", warmup_steps=4, lr=1e-3, lr_discriminator=2e-3)
    run.train_step()
    assert (run.optimizer_g.lr, run.optimizer_d.lr) == (1e-3 / 4, 2e-3 / 4)
    light, heavy = (loop(tmp_path / f"{decay}", weight_decay=decay) for decay in (0.0, 10.0))
    for one in (light, heavy):
        one.train_step()
    for network in ("generator", "discriminator"):
        lengths = [
            sum(float(np.square(host(p)).sum()) for p in getattr(one, network).parameters())
            for one in (light, heavy)
        ]
        assert lengths[1] < lengths[0], network


# --- pictures and files --------------------------------------------------------------------------


def test_pictures_depend_on_their_number_alone():
    generator, _ = networks()
    many, few = from_generator(generator, 300), from_generator(generator, 5)
    np.testing.assert_allclose(many[:5], few, atol=1e-5)
    assert (many[250:255] != few).any()
    assert np.abs(many).max() <= 1
    assert (from_generator(generator, 5, seed=1) != few).any()


def test_there_and_back(tmp_path):
    run = loop(tmp_path, steps=2)
    run.train(progress=False)
    again, _ = load_model(Generator, tmp_path / FILE, "train_gan.py")
    with run.ema.applied():
        np.testing.assert_array_equal(from_generator(run.generator, 3), from_generator(again, 3))


def test_bad_input():
    with refused("size 9", "4 divides"):
        Generator(size=9)
    with refused("width 12", "groups divide"):
        Generator(width=12)
    with refused("lr_discriminator=0"):
        GANOptions(lr_discriminator=0)
    with refused("beta1=1"):
        GANOptions(beta1=1)
