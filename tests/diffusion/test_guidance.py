"""Class-conditional models: guidance, labels in sampling and training, and bad input."""

import numpy as np
import pytest
from builders import NO_ATTENTION, make_trainer, noise_images, shifted_unet

import minddpm
from minddpm import backend, random
from minddpm.data import ImageDataset
from minddpm.diffusion.sampling import Guided
from minddpm.generate import SAMPLERS, generate, seconds_per_run
from minddpm.training.ddpm import TrainingOptions
from refusals import refused

LABELS = np.arange(30) % 3
DATA = noise_images(30, labels=LABELS)


def class_unet(**changes):
    """Return a UNet with three classes whose output depends on the class: no weight is zero."""
    changes = {**NO_ATTENTION, "num_class_embeds": 4, **changes}
    return shifted_unet(shift=0.05, **changes).eval()


def noise(N=3):
    """Return N float32 images of standard normal numbers, on the device."""
    return backend.xp.asarray(np.random.default_rng(1).standard_normal((N, 8, 8, 1), "float32"))


# --- sampling ------------------------------------------------------------------------------------


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guidance_scales_the_difference_that_the_class_makes(any_backend, learned, guidance):
    unet, x, t = class_unet(out_channels=1 + learned), noise(), np.array([3, 7, 9])
    with minddpm.no_grad():
        result = backend.to_numpy(Guided(unet, np.array([0, 2, 1]), guidance)(x, t))
        with_class = unet(x, t, backend.xp.asarray(np.array([0, 2, 1]))).numpy()
        without = unet(x, t, backend.xp.asarray(np.array([3, 3, 3]))).numpy()
    expected = without + guidance * (with_class - without)
    expected[..., 1:] = with_class[..., 1:]  # the variance
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert np.abs(with_class - without).max() > 1e-3
    assert np.abs(with_class[0] - with_class[1]).max() > 1e-3


def test_without_labels_a_model_is_told_no_class(any_backend):
    unet, x, t = class_unet(), noise(), np.array([3, 7, 9])
    with minddpm.no_grad(), backend.kernels.constant_weights():
        expected = unet(x, t, np.array([3, 3, 3])).numpy()
        np.testing.assert_array_equal(unet(x, t).numpy(), expected)
        model = minddpm.replayed(unet)
        for _ in range(3):  # eager, recorded, replayed
            np.testing.assert_array_equal(backend.to_numpy(model(x, t)), expected)


def test_without_labels_the_samples_take_turns(any_backend):
    unet, d = class_unet(), minddpm.GaussianDiffusion(minddpm.schedules.linear(30))
    turns = np.array([0, 1, 2, 0, 1])
    expected = generate((unet, d), 5, "ddim", 4, labels=turns, guidance=2.0)
    np.testing.assert_array_equal(generate((unet, d), 5, "ddim", 4, guidance=2.0), expected)


def test_every_sample_has_its_own_label(any_backend):
    unet, d = class_unet(), minddpm.GaussianDiffusion(minddpm.schedules.linear(30))
    labels = np.array([2, 0, 1, 1, 2])
    batch = generate((unet, d), 5, "ddim", 4, batch_size=5, labels=labels, guidance=2.0)
    parts = generate((unet, d), 5, "ddim", 4, batch_size=2, labels=labels, guidance=2.0)
    np.testing.assert_allclose(parts, batch, atol=1e-4)
    other = generate((unet, d), 5, "ddim", 4, labels=np.array([2, 0, 0, 1, 2]), guidance=2.0)
    changed = np.abs(other - batch).max(axis=(1, 2, 3)) > 1e-4
    assert changed.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_labels(any_backend, sampler):
    unet, d = class_unet(), minddpm.GaussianDiffusion(minddpm.schedules.linear(30))
    made = generate((unet, d), 2, sampler, 3, labels=np.array([0, 1]), guidance=1.5)
    assert np.isfinite(made).all()


def test_the_time_of_a_guided_step_is_measured():
    assert seconds_per_run(class_unet(), 2, guidance=2.0) > 0


# --- training ------------------------------------------------------------------------------------


def class_trainer(path, unet=None, **options):
    """Return a class-conditional trainer on the 30 labelled images."""
    unet = unet or class_unet()
    options = {"batch_size": 10, "class_conditional": True, **options}
    return make_trainer(path, unet, DATA, **options)


def model_labels(trainer, step):
    """Return the labels of all 30 images, one batch, as the UNet would get them."""
    return trainer._draw_labels(np.arange(30), step)


def test_labels_are_dropped_with_the_given_probability(any_backend, tmp_path):
    trainer, same = (class_trainer(tmp_path, batch_size=30, label_dropout=0.25) for _ in range(2))
    labels = np.stack([model_labels(trainer, step) for step in range(200)])
    dropped = labels == 3
    np.testing.assert_array_equal(np.where(dropped, LABELS, labels), np.tile(LABELS, (200, 1)))
    assert abs(dropped.mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / dropped.size)
    np.testing.assert_array_equal(model_labels(trainer, 7), model_labels(same, 7))
    assert (model_labels(trainer, 7) != model_labels(trainer, 8)).any()
    for dropout, wanted in ((0.0, LABELS), (1.0, 3)):
        one = class_trainer(tmp_path, batch_size=30, label_dropout=dropout)
        assert (model_labels(one, 7) == wanted).all()


def test_the_class_embedding_is_trained(any_backend, tmp_path):
    """It has a gradient, and a step with classes does not synchronise either."""
    trainer = class_trainer(tmp_path)
    before = backend.to_numpy(trainer.unet.class_embedding.weight.data).copy()
    record = trainer.train_step()
    assert np.isfinite(backend.to_numpy(record.losses)).all()
    after = backend.to_numpy(trainer.unet.class_embedding.weight.data)
    assert (after[:3] != before[:3]).any(axis=1).all()
    if stats := getattr(backend.xp, "stats", None):  # the stand-in for CuPy counts
        trainer.train_step()  # is recorded, and compared with an eager step, which synchronises
        stats.reset()
        trainer.train_step()
        assert (stats.synchronisations, stats.to_host) == (0, 0)


# --- bad input -----------------------------------------------------------------------------------


def test_bad_input_is_refused(tmp_path):
    unet, d = class_unet(), minddpm.GaussianDiffusion(minddpm.schedules.linear(30))
    plain = class_unet(num_class_embeds=None)
    assert (unet.num_classes, plain.num_classes) == (3, 0)
    for labels, wrong in (([0, 4], 4), ([-1, 2], -1)):
        with refused(wrong, "0 .. 2"):
            Guided(unet, np.array(labels))
    with refused("no classes", "--class-conditional"):
        Guided(plain, np.array([0]))
    with refused("float64"):
        Guided(unet, np.array([0.5]))
    for guidance in (-1.0, np.nan, np.inf):
        with refused("guidance"):
            Guided(unet, np.array([0]), guidance)
    with refused("guidance", "classes"):
        generate((plain, d), 2, guidance=2.0)
    with refused("3 labels for 2"):
        generate((unet, d), 2, labels=np.array([0, 1, 2]))
    with refused("label_dropout=1.5"):
        TrainingOptions(label_dropout=1.5)
    with refused("labels up to 2", "num_class_embeds=4"):
        class_trainer(tmp_path, class_unet(num_class_embeds=3))
    unlabelled = ImageDataset(DATA.images, None, "a folder")
    with refused("a folder", "--class-conditional"):
        make_trainer(tmp_path, unet, unlabelled, class_conditional=True)


def test_the_label_noise_has_its_own_purpose():
    """Otherwise the dropped labels would be correlated with the noise."""
    purposes = [random.TIMESTEP, random.NOISE, random.DROPOUT, random.LABEL, random.BOUND]
    assert len(set(purposes)) == 5
