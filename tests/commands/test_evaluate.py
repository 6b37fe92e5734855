"""examples/evaluate.py: metrics of models and of image files."""

import json

import numpy as np
import pytest
from commands import NUMPY, refused
from PIL import Image


@pytest.mark.parametrize("run", ["trained", "conditional"])
def test_bits_per_dim(command, request, run, digits, tmp_path):
    model = ["--model", request.getfixturevalue(run), "--data-dir", digits, *NUMPY]
    model += ["--count", 0]
    options = ["--images", 3, "--batch-size", 2]
    for how in (["--draws", 2, "--likelihood-steps", 1], ["--exact", "--where-bits"]):
        file = tmp_path / f"{how[0]}.json"
        code, stdout, _ = command("evaluate", *model, *options, *how, "--json", file)
        assert code == 0
        numbers = json.loads(file.read_text())
        parts = [numbers[name]["value"] for name in ("L_T", "L_between", "L_0")]
        assert numbers["bits_per_dim"]["value"] == pytest.approx(sum(parts))
        assert numbers["bits_per_dim"]["n"] == 3
        assert f"{numbers['bits_per_dim']['value']:.5g}" in stdout
        assert ("| t | log SNR | black | grey | white |" in stdout) == ("--where-bits" in how)
        assert ("ode_decoder" in numbers) == (how[0] == "--draws")
    numbers = json.loads((tmp_path / "--draws.json").read_text())
    for name in ("ode_decoder", "ode_uniform"):
        assert (numbers[name]["n"], numbers[name]["steps"]) == (3, 1)
        assert np.isfinite(numbers[name]["value"])
        assert numbers[name]["standard_error"] > 0
    refused(command("evaluate", *model, "--json", tmp_path / "--exact.json"), "exists")
    refused(command("evaluate", *model, "--images", 31), "31", "30")
    refused(command("evaluate", *model, "--images", 2, "--draws", 40), "40 draws", "--exact")


@pytest.mark.parametrize("run", ["trained", "conditional"])
def test_metrics_of_the_samples_of_a_model(command, request, run, digits, tmp_path):
    model = ["--model", request.getfixturevalue(run), "--data-dir", digits, *NUMPY]
    how = ["--count", 70, "--steps", 2, "--images", 2, "--draws", 2]
    how += ["--classification-steps", 0, "--nearest", tmp_path / "near.png"]
    code, stdout, _ = command("evaluate", *model, *how, "--json", tmp_path / "e.json")
    assert code == 0, stdout
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert {"fid", "kid", "inception_score", "precision", "recall", "bits_per_dim"} < set(numbers)
    assert "classification_score" not in numbers
    fid = numbers["fid"]
    assert (fid["n"], fid["steps"], fid["sampler"]) == (70, 2, "dpm_solver")
    assert fid["floor_is"] == "30 test images"
    assert fid["floor_is"] in stdout
    assert fid["weights"] == "EMA"
    assert fid["labels"] == ("the judge's" if run == "trained" else "given to the model")
    assert f"{fid['value']:.5g}" in stdout
    assert "99.31%" in stdout
    with Image.open(tmp_path / "near.png") as image:
        assert image.size[0] > 300
    guided = [*how[:4], "--images", 0, "--guidance", 2, "--judge-labels"]
    guided += ["--classification-steps", 1, "--json", tmp_path / "g.json"]
    result = command("evaluate", *model, *guided)
    if run == "trained":
        refused(result, "guidance")
    else:
        assert result[0] == 0, result
        score = json.loads((tmp_path / "g.json").read_text())["classification_score"]
        assert (score["labels"], score["guidance"]) == ("the judge's", 2)
    wrong = [*model, "--images", 2, "--draws", 2]
    refused(command("evaluate", *wrong, "--count", 64), "64 images", "65")
    refused(command("evaluate", *model, "--count", 0, "--images", 0), "nothing to measure")
    refused(command("evaluate", *wrong, "--steps", 41), "41")
    refused(command("evaluate", *wrong, "--judge", tmp_path / "none"), "does not exist")


def test_metrics_of_images_from_a_file(command, digits, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (70, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    data = ["--data-dir", digits, *NUMPY]
    how = ["--classification-steps", 2, "--json", tmp_path / "e.json"]
    code, stdout, _ = command("evaluate", "--samples", tmp_path / "a.npz", *data, *how)
    assert code == 0, stdout
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert numbers["classification_score"]["n"] == 70
    assert 0 <= numbers["classification_score"]["value"] <= 1
    assert "training images with their own labels" in numbers["classification_score"]["floor_is"]
    assert "training images with their own labels" in stdout
    assert "bits_per_dim" not in numbers
    for name, labels in (("far", 10), ("below", -1)):
        file = tmp_path / f"{name}.npz"
        np.savez(file, images=images, labels=np.full(70, labels))
        refused(command("evaluate", "--samples", file, *data), f"{name}.npz", str(labels), "0 .. 9")
    for name, content in (("small", images[:, :14]), ("few", images[:3]), ("nan", images * np.nan)):
        np.savez(tmp_path / f"{name}.npz", images=content)
        refused(command("evaluate", "--samples", tmp_path / f"{name}.npz", *data), name)
    refused(command("evaluate", "--samples", tmp_path / "no.npz", *data), "no.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    refused(command("evaluate", "--samples", tmp_path / "empty.npz", *data), "empty.npz")


def test_metrics_of_a_gan(command, digits, tmp_path):
    run = ["--data-dir", digits, *NUMPY, "--out", tmp_path / "run", "--batch-size", 4]
    assert command("train_gan", *run, "--steps", 1)[0] == 0
    model = ["--model", tmp_path / "run", "--data-dir", digits, *NUMPY]
    code, stdout, _ = command("evaluate", *model, "--count", 70, "--classification-steps", 0)
    assert code == 0, stdout
    assert "FID" in stdout
    assert "bits/dim" not in stdout
    refused(command("evaluate", *model, "--count", 0), "no bound", "--count")
