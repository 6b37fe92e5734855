"""Training on one's own images, in a model of one's own size, and from trained weights."""

import json
import shutil

import numpy as np
import pytest
from commands import NUMPY, refused
from PIL import Image

import minddpm
from minddpm.models.pretrained import CONFIG

FEW = ["--steps", 1, "--batch-size", 2, "--timesteps", 40, "--sample-steps", 2, "--samples", 2]
MODEL = ["--widths", "4,8", "--blocks", 1, "--attention", 4, "--norm-groups", 2]
WIDE = ["--data", "photos", "--image-size", "8x12"]


def run_json(folder):
    return json.loads((folder / "run.json").read_text())["options"]


def draw(folder, names, mode="RGB"):
    for i, name in enumerate(names):
        path = folder / name / "1.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        colour = (250, 20 * i, 0) if mode == "RGB" else 20 * i
        Image.new(mode, (18, 9), colour).save(path)


@pytest.fixture
def train(command, tmp_path):
    """train(words) runs train_mnist.py in a folder with colour photos of three classes."""
    draw(tmp_path / "photos", ("cat", "dog", "owl"))
    return lambda *words: command("train_mnist", *FEW, *NUMPY, *words)


def test_a_folder_of_colour_images_that_are_not_square(train, command, tmp_path):
    code, stdout, stderr = train(*WIDE, *MODEL, "--class-conditional", "--flip", "--out", "run")
    assert code == 0, stderr
    assert "8 x 12 x 3" in stdout
    parameters = sum(p.data.size for p in minddpm.load(tmp_path / "run").unet.parameters())
    assert f"model: {parameters:,} parameters; a training step of 2 images" in stdout
    unet = minddpm.UNet2D.from_pretrained(tmp_path / "run")
    assert tuple(unet.config["sample_size"]) == (8, 12)
    assert unet.config["down_block_types"] == ("DownBlock2D", "AttnDownBlock2D")
    assert unet.label_names == ("cat", "dog", "owl")
    model = ["--model", "run", *NUMPY]
    for sampler in ("ddpm", "dpm_solver"):
        more = ["--sampler", sampler, "--steps", 2, "--count", 3, "--npz", f"{sampler}.npz"]
        assert command("sample", *model, *more)[0] == 0
        assert np.load(tmp_path / f"{sampler}.npz")["images"].shape == (3, 8, 12, 3)
    with Image.open(tmp_path / "run" / "samples.png") as image:
        assert image.mode == "RGB"
    code, stdout, stderr = train("--resume", "--steps", 2, "--out", "run")  # all is in run.json
    assert code == 0, stderr
    assert run_json(tmp_path / "run")["image_size"] == "8x12"
    refused(train("--resume", "--image-size", 8, "--out", "run"), "image_size=8x12", "8:")
    refused(train("--resume", "--widths", "4,4", "--out", "run"), "widths=4,8")
    refused(train("--resume", "--init-from", "run", "--out", "run"), "init_from=None")


def test_samplers_evaluation_and_distillation_take_the_same_images(train, command, tmp_path):
    assert train(*WIDE, *MODEL, "--out", "run")[0] == 0
    words = ["--model", "run", "--data", "photos", "--out", "short", "--steps-per-stage", 1]
    few = ["--sampling-steps", 2, "--batch-size", 2, "--samples", 2]
    code, _, stderr = command("distill", *words, *few, *NUMPY)
    assert code == 0, stderr
    for name in ("inpaint", "interpolate"):
        refused(command(name, "--model", "run", *NUMPY), "photos: choose", "trained on MNIST")


def test_the_model_of_a_file(train, tmp_path):
    assert train(*WIDE, *MODEL, "--out", "run")[0] == 0
    config = tmp_path / "run" / "unet" / CONFIG
    code, _, stderr = train(
        "--data", "photos", "--image-size", 12, "--config", config, "--out", "b"
    )
    assert code == 0, stderr
    unet = minddpm.UNet2D.from_pretrained(tmp_path / "b")
    assert (unet.config["sample_size"], unet.config["block_out_channels"]) == (12, (4, 8))
    refused(train(*WIDE, "--config", config, "--model", "tiny"), "--config", "give only one")
    config.write_text(json.dumps({**json.loads(config.read_text()), "norm_num_groups": 3}))
    refused(train(*WIDE, "--config", config), CONFIG, "norm_num_groups=3", "divisor")
    refused(train(*WIDE, "--config", tmp_path / "nowhere.json"), "nowhere.json")


def test_fine_tuning_on_other_classes_and_channels(train, tmp_path):
    conditional = [*WIDE, "--class-conditional"]
    assert train(*conditional, *MODEL, "--out", "run")[0] == 0
    before = dict(minddpm.UNet2D.from_pretrained(tmp_path / "run").named_parameters())
    draw(tmp_path / "others", ("a", "b"), "L")

    def tuned(out, *words):
        code, stdout, stderr = train(*words, "--init-from", "run", "--out", out, "--lr", "1e-30")
        assert code == 0, stderr
        return stdout, dict(minddpm.UNet2D.from_pretrained(tmp_path / out).named_parameters())

    stdout, after = tuned("same", *conditional)
    assert "starts anew" not in stdout
    for name, parameter in before.items():
        np.testing.assert_allclose(after[name].data, parameter.data, atol=1e-25)
    others = ["--data", "others", "--image-size", "8x12", "--class-conditional"]
    stdout, after = tuned("grey", *others)
    for part in ("conv_in", "conv_out", "class_embedding"):
        assert f"{part} starts anew" in stdout
    assert after["conv_in.weight"].data.shape[2] == 1
    no_class = before["class_embedding.weight"].data[-1]
    np.testing.assert_allclose(after["class_embedding.weight"].data, [no_class] * 3, atol=1e-25)
    stdout, _ = tuned("plain", *WIDE, "--unconditional")
    assert "class_embedding is left out" in stdout
    shutil.rmtree(tmp_path / "run")
    assert train("--resume", "--steps", 2, "--out", "grey")[0] == 0  # it does not need it any more


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["--data", "nowhere"], ["nowhere", "does not exist", "give mnist"]),
        (["--data", "photos", "--image-folder", "photos"], ["give only one"]),
        (["--data", "photos", "--data-dir", "photos"], ["--data-dir is for mnist", "only one"]),
        ([*WIDE, "--image-size", "8x"], ["8x is not a size", "48x96"]),
        ([*WIDE, "--widths", "4,x"], ["--widths '4,x'", "32,64,128"]),
        ([*WIDE, "--widths", ""], ["--widths ''", "32,64,128"]),
        ([*WIDE, "--attention", ""], ["--attention ''", "32,64,128"]),
        ([*WIDE, *MODEL, "--attention", "5"], ["--attention 5", "height 8", "8, 4"]),
        ([*WIDE, *MODEL, "--widths", "4,4,4,4"], ["8 x 12 cannot be halved 3 times", "of 8"]),
        ([*WIDE, "--widths", "4,8"], ["norm_num_groups=8 does not divide", "divisor"]),
        ([*WIDE, "--init-from", "photos"], ["photos", "holds no model"]),
        ([*WIDE, "--init-from", "photos", "--blocks", 1], ["leave out --blocks"]),
        ([*WIDE, "--channels", 2], ["--channels"]),
    ],
)
def test_bad_input_gets_one_sentence(train, tmp_path, words, parts):
    refused(train(*words, "--out", "run"), *parts)
    assert not (tmp_path / "run").exists()


def test_a_grey_run_of_before_resumes_in_grey(train, tmp_path):
    """Runs from before --channels existed were grey, whatever their images were."""
    words = ["--image-folder", "photos", "--image-size", 8, "--channels", 1, *MODEL, "--out", "run"]
    assert train(*words)[0] == 0
    path = tmp_path / "run" / "run.json"
    info = json.loads(path.read_text())
    del info["options"]["channels"], info["options"]["data"]
    path.write_text(json.dumps(info))
    code, _, stderr = train("--resume", "--steps", 2, "--out", "run")
    assert code == 0, stderr
