"""Class-conditional models: what they are told, what guidance makes of it, and what is refused."""

from functools import partial

import numpy as np
import pytest

import minddpm
from minddpm import backend, random
from minddpm.commands.run_figures import class_rows
from minddpm.data import ImageDataset
from minddpm.diffusion.sampling import Guided
from minddpm.generate import SAMPLERS, generate, seconds_per_run
from minddpm.training.ddpm import Trainer, TrainingOptions
from minddpm.training.run_directory import RunDirectory
from refusals import refused

TINY = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (4, 8),
    "down_block_types": ("DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"), "layers_per_block": 1, "norm_num_groups": 2,
}  # fmt: skip
LABELS = np.arange(30) % 3
DATA = ImageDataset(
    np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), dtype=np.uint8), LABELS, "noise"
)


def tiny_unet(learned=False, **changes):
    """With an output that depends on the class: no weight is zero."""
    minddpm.manual_seed(0)
    config = {**TINY, "out_channels": 1 + learned, "num_class_embeds": 4, **changes}
    unet = minddpm.UNet2D(**config).eval()
    for parameter in unet.parameters():
        parameter.data = parameter.data + 0.05
    return unet


def pictures(N=3):
    return backend.xp.asarray(np.random.default_rng(1).standard_normal((N, 8, 8, 1), "float32"))


# --- what is told --------------------------------------------------------------------------------


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("guidance", [0.0, 1.0, 2.5])
def test_guidance_exaggerates_what_the_class_adds(any_backend, learned, guidance):
    unet, x, t = tiny_unet(learned), pictures(), np.array([3, 7, 9])
    with minddpm.no_grad():
        got = backend.to_numpy(Guided(unet, np.array([0, 2, 1]), guidance)(x, t))
        with_class = unet(x, t, backend.xp.asarray(np.array([0, 2, 1]))).numpy()
        without = unet(x, t, backend.xp.asarray(np.array([3, 3, 3]))).numpy()
    expected = without + guidance * (with_class - without)
    expected[..., 1:] = with_class[..., 1:]  # the variance
    np.testing.assert_allclose(got, expected, atol=1e-5)
    assert np.abs(with_class - without).max() > 1e-3
    assert np.abs(with_class[0] - with_class[1]).max() > 1e-3


def test_every_picture_has_its_own_label(any_backend):
    unet, d = tiny_unet(), minddpm.GaussianDiffusion(minddpm.schedules.linear(30))
    labels = np.array([2, 0, 1, 1, 2])
    whole = generate((unet, d), 5, "ddim", 4, batch_size=5, labels=labels, guidance=2.0)
    parts = generate((unet, d), 5, "ddim", 4, batch_size=2, labels=labels, guidance=2.0)
    np.testing.assert_allclose(parts, whole, atol=1e-4)
    other = generate((unet, d), 5, "ddim", 4, labels=np.array([2, 0, 0, 1, 2]), guidance=2.0)
    changed = np.abs(other - whole).max(axis=(1, 2, 3)) > 1e-4
    assert changed.tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_takes_labels(any_backend, sampler):
    unet, d = tiny_unet(), minddpm.GaussianDiffusion(minddpm.schedules.linear(30))
    made = generate((unet, d), 2, sampler, 3, labels=np.array([0, 1]), guidance=1.5)
    assert np.isfinite(made).all()


def test_a_row_for_each_class():
    labels, columns = class_rows(tiny_unet(num_class_embeds=11), 64)
    assert columns == 7
    assert labels[:8].tolist() == [0] * 7 + [1]
    assert labels.max() == 9
    assert class_rows(tiny_unet(num_class_embeds=None), 64) == (None, None)
    assert seconds_per_run(tiny_unet(), 2, guidance=2.0) > 0


# --- training ------------------------------------------------------------------------------------


def trainer(path, unet=None, **options):
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(50))
    options = TrainingOptions(batch_size=10, class_conditional=True, **options)
    return Trainer(unet or tiny_unet(), diffusion, DATA, RunDirectory(path), options)


def told(model, step):
    """The labels of a batch, as the UNet would get them."""
    chosen = np.arange(30)
    given = model._model(chosen, step)
    assert isinstance(given, partial)
    return given.keywords["class_labels"]


def test_now_and_then_a_label_is_left_out(any_backend, tmp_path):
    model = trainer(tmp_path, label_dropout=0.25)
    labels = np.stack([told(model, step) for step in range(200)])
    kept = labels != 3
    np.testing.assert_array_equal(np.where(kept, labels, LABELS), np.tile(LABELS, (200, 1)))
    assert abs((~kept).mean() - 0.25) < 5 * np.sqrt(0.25 * 0.75 / kept.size)
    np.testing.assert_array_equal(told(model, 7), told(trainer(tmp_path, label_dropout=0.25), 7))
    assert (told(model, 7) != told(model, 8)).any()
    assert (told(trainer(tmp_path, label_dropout=0.0), 7) == LABELS).all()
    assert (told(trainer(tmp_path, label_dropout=1.0), 7) == 3).all()


def test_the_class_is_learned(any_backend, tmp_path):
    """Its embedding has a gradient, and a step waits for nothing more than without classes."""
    model = trainer(tmp_path)
    before = backend.to_numpy(model.unet.class_embedding.weight.data).copy()
    record = model.train_step()
    assert np.isfinite(backend.to_numpy(record.losses)).all()
    after = backend.to_numpy(model.unet.class_embedding.weight.data)
    assert (after[:3] != before[:3]).any(axis=1).all()
    if any_backend == "cupy":
        stats = backend.xp.stats
        stats.reset()
        model.train_step()
        assert (stats.synchronisations, stats.to_host) == (0, 0)


# --- refusals ------------------------------------------------------------------------------------


def test_what_is_refused(tmp_path):
    unet, d = tiny_unet(), minddpm.GaussianDiffusion(minddpm.schedules.linear(30))
    plain = tiny_unet(num_class_embeds=None)
    assert (unet.num_classes, plain.num_classes) == (3, 0)
    for labels in ([0, 4], [-1, 2]):
        with refused(labels[0] if labels[0] < 0 else labels[1], "0 .. 2"):
            Guided(unet, np.array(labels))
    with refused("no classes", "--class-conditional"):
        Guided(plain, np.array([0]))
    with refused("float64"):
        Guided(unet, np.array([0.5]))
    for guidance in (-1.0, np.nan, np.inf):
        with refused("guidance"):
            Guided(unet, np.array([0]), guidance)
    with refused("class-conditional", "label"):
        generate((unet, d), 2)
    with refused("guidance", "label"):
        generate((plain, d), 2, guidance=2.0)
    with refused("3 labels for 2"):
        generate((unet, d), 2, labels=np.array([0, 1, 2]))
    with refused("label_dropout=1.5"):
        TrainingOptions(label_dropout=1.5)
    with refused("labels up to 2", "num_class_embeds=4"):
        trainer(tmp_path, tiny_unet(num_class_embeds=3))
    unlabelled = ImageDataset(DATA.images, None, "a folder")
    with refused("a folder", "--class-conditional"):
        Trainer(
            unet, d, unlabelled, RunDirectory(tmp_path), TrainingOptions(class_conditional=True)
        )


def test_a_purpose_of_its_own():
    """Or which labels are left out would go with the noise."""
    purposes = [random.TIMESTEP, random.NOISE, random.DROPOUT, random.LABEL, random.BOUND]
    assert len(set(purposes)) == 5
