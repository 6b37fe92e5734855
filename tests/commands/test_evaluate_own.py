"""examples/evaluate.py with images that are not digits: --reference, and models of own images."""

import json
import zipfile

import numpy as np
import pytest
from commands import NUMPY, refused
from PIL import Image

N = 110  # two halves with more images than the 45 features of 16 x 24 x 3


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of colour images of 16 x 24 in two classes, and the same as .zip and .npz."""
    place = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (N, 16, 24, 3), dtype=np.uint8) // 2
    images[N // 2 :, 8:] += 100
    with zipfile.ZipFile(place / "photos.zip", "w") as archive:
        for i, image in enumerate(images):
            file = place / "photos" / "ab"[i >= N // 2] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(file)
            archive.write(file, file.relative_to(place))
    np.savez(place / "photos.npz", images=images)
    return place


@pytest.fixture
def evaluate(command, tmp_path):
    """evaluate(words) returns the metrics and what was printed."""

    def run(*words):
        (tmp_path / "e.json").unlink(missing_ok=True)
        code, stdout, stderr = command("evaluate", *words, *NUMPY, "--json", "e.json")
        assert code == 0, stderr
        return json.loads((tmp_path / "e.json").read_text()), stdout

    return run


def test_a_folder_against_a_folder(evaluate, photos):
    for kind in ("photos", "photos.zip", "photos.npz"):
        words = ["--samples", photos / kind, "--reference", photos / "photos"]
        numbers, stdout = evaluate(*words)
        fid = numbers["fid"]
        assert fid["n"] == N // 2
        assert fid["scale"]["real images"] == fid["floor"] < fid["ceiling"]
        assert fid["value"] < fid["scale"]["half of the classes"]
        assert set(numbers) == {"fid", "kid", "precision", "recall"}
        for words in ("not Inception's", "blurred", f"{fid['value']:.4g}", "wavelet"):
            assert words in stdout
    numbers, stdout = evaluate(
        "--samples", photos / "photos.npz", "--reference", photos / "photos.npz",
        "--nearest", "near.png", "--image-size", "8x12",
    )  # fmt: skip
    assert "half of the classes" not in stdout  # an .npz without labels
    assert numbers["fid"]["value"] < numbers["fid"]["ceiling"]
    with Image.open("near.png") as image:
        assert image.mode == "RGB"


def test_grey_samples_of_a_colour_reference_are_not_forgiven(evaluate, photos, tmp_path):
    grey = np.load(photos / "photos.npz")["images"].mean(axis=3).astype(np.uint8)
    np.savez(tmp_path / "grey.npz", images=grey)
    numbers, stdout = evaluate("--samples", "grey.npz", "--reference", photos / "photos")
    assert "as colour images without colour" in stdout
    assert numbers["fid"]["value"] > 3 * numbers["fid"]["floor"]
    numbers, _ = evaluate("--samples", photos / "photos", "--reference", "grey.npz")
    assert numbers["fid"]["value"] > 3 * numbers["fid"]["floor"]


def test_a_model_of_own_images(evaluate, command, photos, tmp_path):
    size = ["--data", photos / "photos", "--image-size", "8x12"]
    model = ["--widths", "4,8", "--blocks", 1, "--attention", "none", "--norm-groups", 2]
    few = ["--steps", 1, "--batch-size", 2, "--timesteps", 40, "--sample-steps", 1, "--samples", 2]
    for out, more in (("plain", []), ("classes", ["--class-conditional"])):
        code, _, stderr = command("train_mnist", *size, *model, *few, *more, "--out", out, *NUMPY)
        assert code == 0, stderr
        numbers, stdout = evaluate("--model", out, "--steps", 1)
        assert (numbers["fid"]["n"], numbers["fid"]["steps"]) == (N // 2, 1)
        assert numbers["fid"]["value"] > numbers["fid"]["floor"]
        assert "README.md shows them" in stdout
        card = (tmp_path / out / "README.md").read_text()
        assert "| FID |" in card
        assert str(photos) not in card
    moved = [*NUMPY, "--model", "plain", "--steps", 1]
    run = tmp_path / "plain" / "run.json"
    run.write_text(run.read_text().replace(str(photos / "photos"), "/nowhere"))
    refused(command("evaluate", *moved), "/nowhere", "--reference")
    assert evaluate(*moved[2:], "--reference", photos / "photos")[0]["fid"]["n"] == N // 2


def test_a_gan_of_a_named_data_set(command, evaluate, digits, photos):
    words = ["--data", "fashion-mnist", "--data-dir", digits, "--out", "gan", *NUMPY]
    code, _, stderr = command("train_gan", *words, "--batch-size", 4, "--steps", 1)
    assert code == 0, stderr
    model = ["--model", "gan", "--data-dir", digits]
    refused(command("evaluate", *model, *NUMPY), "Fashion-MNIST", "at least 54")
    numbers, _ = evaluate(*model, "--reference", photos / "photos", "--count", 40)
    assert numbers["fid"]["n"] == 40


def test_bad_input_gets_one_sentence(command, photos, tmp_path):
    def run(samples, reference, *more):
        words = ["--samples", samples, "--reference", reference, *more]
        return command("evaluate", *words, *NUMPY)

    every = photos / "photos"
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    refused(run(mixed, every), "mixed", "no image")
    for i, size in enumerate([(24, 16), (24, 18)]):
        Image.new("RGB", size).save(mixed / f"{i}.png")
    refused(run(mixed, every), "16 x 24 (0.png)", "18 x 24 (1.png)", "--image-size")
    refused(run(mixed, every, "--image-size", "16x24"), "2 samples", "at least 46")
    refused(run(every, mixed), "mixed", "divided in two", "at least 92")
    refused(run(every, tmp_path / "none"), "none", "does not exist")
    refused(run(tmp_path / "none", every), "none", "does not exist")
    refused(run(every, every, "--image-size", "x"), "x is not a size")
    refused(run(every, every, "--inception", every / "a" / "0.png"), "0.png")
    refused(command("evaluate", "--samples", every, "--image-size", 8, *NUMPY), "--reference")
    np.savez(tmp_path / "other.npz", images=np.zeros((N, 8, 8, 3), np.uint8))
    refused(run(every, tmp_path / "other.npz"), "8 x 8", "16 x 24", "--image-size")
