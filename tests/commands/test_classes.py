"""Class-conditional models in the commands: names, --label, grids, the same classes on resume."""

import json

import numpy as np
import pytest
from builders import random_unet
from commands import NUMPY, QUICK, refused, snapshot
from PIL import Image

from minddpm import GaussianDiffusion, UNet2D, schedules
from minddpm.commands.classes import class_grid, find_label, labels_of_all_classes
from minddpm.data.image_archive import read_images
from minddpm.drawing import GUTTER
from minddpm.pipeline import save_pipeline
from minddpm.training.run_directory import RUN
from refusals import refused as refused_sentence


def class_unet(*names):
    return random_unet(num_class_embeds=len(names) + 1, _label_names=names)


# --- names ---------------------------------------------------------------------------------------


def test_a_label_is_a_name_or_a_number():
    pets = class_unet("cat", "dog", r"caf\udce9")
    assert [find_label(pets, text, "m") for text in ("dog", "0", "caf\udce9")] == [1, 0, 2]
    numbered = class_unet("1", "2", "10")
    assert [find_label(numbered, text, "m") for text in ("1", "2", "10")] == [0, 1, 2]
    unnamed = random_unet(num_class_embeds=4)
    assert find_label(unnamed, "2", "m") == 2


@pytest.mark.parametrize(
    ("unet", "text", "words"),
    [
        (class_unet("cat", "dog"), "bird", ["label bird", "choose cat, dog"]),
        (class_unet("cat", "dog"), "2", ["label 2", "choose cat, dog"]),
        (class_unet("1", "2", "10"), "0", ["label 0", "choose 1, 2, 10"]),
        (random_unet(num_class_embeds=4), "3", ["label 3", "choose 0, 1, 2"]),
        (random_unet(num_class_embeds=4), "cat", ["label cat", "choose 0, 1, 2"]),
        (random_unet(), "0", ["no classes", "omit --label"]),
    ],
)
def test_an_unknown_label_is_refused(unet, text, words):
    with refused_sentence("runs/m has no", *words):
        find_label(unet, text, "runs/m")


# --- grids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 64])
def test_every_class_has_its_own_row(count):
    """Also if `count` is not a multiple of the number of classes."""
    labels = labels_of_all_classes(class_unet("a", "b", "c"), count)
    counts = np.bincount(labels, minlength=3)
    assert counts.sum() == count
    assert counts.max() - counts.min() <= 1
    values = labels[:, None, None, None] - np.ones((1, 2, 2, 1))  # class 0, 1, 2 -> -1, 0, 1
    pixels = np.asarray(class_grid(values, labels))
    for label, row in enumerate(np.split(pixels[2:], min(count, 3))):
        grey = [0, 128, 255][label]
        assert set(np.unique(row)) <= {grey, GUTTER}
        assert (row == grey).sum() == counts[label] * 16  # 2 x 2 pixels, drawn twice as large


def test_without_classes_the_grid_is_square():
    assert labels_of_all_classes(random_unet(), 4) is None
    assert class_grid(np.zeros((4, 2, 2, 1)), None).size == (14, 14)


# --- a run ---------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Three images in the folders 1, 2 and 10; path order 1, 10, 2."""
    for name in ("1", "2", "10"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        Image.new("L", (8, 8), int(name)).save(tmp_path / "pictures" / name / "1.png")
    return tmp_path / "pictures"


@pytest.fixture
def runs(command, pictures):
    """A class-conditional run and an unconditional one, both of the pictures."""
    for out, more in (("run", ["--class-conditional"]), ("plain", [])):
        options = ["--image-folder", pictures, "--image-size", 8, "--out", out, *QUICK]
        code, stdout, _ = command("train_mnist", *options, *more)
        assert code == 0
        assert ("3 classes: 1 (1), 2 (1), 10 (1)" in stdout) == (out == "run")


def resume(command, out, *more):
    options = ["--steps", 3, "--sample-steps", 2, "--samples", 1, *NUMPY]
    return command("train_mnist", "--out", out, "--resume", *options, *more)


def make_older(run):
    """Remove what run.json lacked before it had the names of classes."""
    info = json.loads((run / RUN).read_text())
    info["data"].pop("label_checksum")
    info["data"].pop("label_names")
    (run / RUN).write_text(json.dumps(info))


def test_the_names_go_from_the_folders_to_the_samples(command, runs, tmp_path):
    assert json.loads((tmp_path / "run" / RUN).read_text())["data"]["label_names"][2] == "10"
    assert UNet2D.from_pretrained("run").label_names == ("1", "2", "10")
    sample = ["--model", "run", "--steps", 1, *NUMPY]
    code, stdout, _ = command("sample", *sample, "--count", 4, "--npz", "all.npz")
    assert code == 0
    assert "one row per class: 1, 2, 10" in stdout
    assert read_images(tmp_path / "all.npz")[1].tolist() == [0, 0, 1, 2]
    assert command("sample", *sample, "--count", 2, "--label", 10, "--npz", "ten.npz")[0] == 0
    assert read_images(tmp_path / "ten.npz")[1].tolist() == [2, 2]
    refused(command("sample", *sample, "--label", 0), "label 0", "choose 1, 2, 10")


def test_samples_of_an_unconditional_run_have_no_labels(command, runs, tmp_path):
    sample = ["--model", "plain", "--steps", 1, "--count", 1, *NUMPY]
    assert command("sample", *sample, "--npz", "a.npz")[0] == 0
    assert np.load(tmp_path / "a.npz").files == ["images"]


@pytest.mark.parametrize(
    ("old", "new"), [("2/1.png", "10/2.png"), ("2", "3")], ids=["regrouped", "renamed"]
)
def test_only_a_class_conditional_run_needs_the_same_classes(
    command, runs, pictures, tmp_path, old, new
):
    """The images and their order stay the same."""
    (pictures / old).rename(pictures / new)
    before = snapshot(tmp_path)
    refused(resume(command, "run"), "other labels (classes 1, 2, 10)", "class folders", "--out")
    assert snapshot(tmp_path) == before
    assert resume(command, "plain")[0] == 0
    (pictures / new).rename(pictures / old)
    assert resume(command, "run")[0] == 0


def test_an_older_run_whose_folders_had_other_numbers_is_refused(command, runs, tmp_path):
    """It numbered 1, 10, 2; its labels would change."""
    for out in ("run", "plain"):
        make_older(tmp_path / out)
    refused(resume(command, "run"), "other labels (classes 1, 10, 2)", "(classes 1, 2, 10)")
    assert resume(command, "plain")[0] == 0


def test_an_older_run_with_the_same_numbers_resumes(command, digits, tmp_path):
    data = ["--data-dir", digits]
    options = [*data, "--out", "run", *QUICK, "--class-conditional"]
    assert command("train_mnist", *options)[0] == 0
    make_older(tmp_path / "run")
    assert resume(command, "run", *data)[0] == 0


def test_a_model_of_other_classes_is_not_measured_on_digits(command, digits, tmp_path):
    unet = random_unet(num_class_embeds=3, _label_names=("cat", "dog"), sample_size=28)
    save_pipeline(unet, GaussianDiffusion(schedules.linear(40)), tmp_path / "pets")
    for name in ("evaluate", "inpaint", "interpolate"):
        result = command(name, "--model", "pets", "--data-dir", digits, *NUMPY)
        refused(result, "pets has the classes cat, dog", "trained on MNIST")
