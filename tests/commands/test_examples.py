"""The commands: what they write, and one sentence with exit code 2 for bad input."""

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import EXAMPLES, NUMPY, QUICK, refused, snapshot
from PIL import Image

import minddpm
from minddpm.commands import run_figures
from minddpm.diffusion.scheduler_file import load_diffusion
from minddpm.generate import ADAPTIVE, SAMPLERS
from minddpm.models.pretrained import WEIGHTS
from minddpm.pipeline import save_pipeline
from minddpm.training.run_directory import BEFORE_COOLDOWN


def test_training_writes_its_files(trained):
    for name in ("samples.png", "forward.png", "loss.png", "denoising.gif"):
        with Image.open(trained / name) as image:
            image.verify()
    assert (trained / "loss.csv").read_text().startswith("step,loss,")
    run = json.loads((trained / "run.json").read_text())
    assert run["options"]["batch_size"] == 2
    assert run["options"]["seed"] == 0
    assert run["options"]["threads"] is None  # NumPy chooses
    assert set(run["versions"]) >= {"minddpm", "numpy", "python"}
    assert (trained / "model_index.json").is_file()
    assert not list(trained.rglob("*.bin"))
    assert not list(trained.rglob("*.pkl"))


def test_spacing_and_eta_of_sample(command, trained, tmp_path):
    arguments = ["--model", trained, "--count", 2, "--sampler", "ddim", "--backend", "numpy"]
    images = []
    for i, more in enumerate((["--spacing", "ddim4"], ["--spacing", "leading", "--steps", 4],
                              ["--spacing", "2,2", "--eta", 1])):  # fmt: skip
        code, stdout, _ = command("sample", *arguments, *more, "--npz", f"{i}.npz")
        assert (code, "2 samples in 4 ddim steps" in stdout) == (0, True)
        images.append(np.load(tmp_path / f"{i}.npz")["images"])
    np.testing.assert_array_equal(images[0], images[1])  # 0, 10, 20, 30 of 40 in both
    assert (images[0] != images[2]).any()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling(command, trained, tmp_path, sampler):
    arguments = ["--model", trained, "--count", 3, "--steps", 2, "--sampler", sampler]
    files = ["--out", "a.png", "--npz", "a.npz"]
    code, stdout, _ = command("sample", *arguments, "--backend", "numpy", *files)
    assert code == 0
    assert "3 samples " in stdout
    assert "a.png" in stdout
    images = np.load(tmp_path / "a.npz")["images"]
    assert images.shape == (3, 28, 28)
    assert images.dtype == np.uint8
    again = command("sample", *arguments, "--batch-size", 2, "--backend", "numpy", "--npz", "b.npz")
    assert again[0] == 0
    difference = images.astype(int) - np.load(tmp_path / "b.npz")["images"]
    if sampler not in ADAPTIVE:  # an adaptive sampler chooses its steps for the entire batch
        assert np.abs(difference).max() <= 1  # products round differently


def test_the_model_is_told_the_classes_if_there_are_any(command, digits, tmp_path, monkeypatch):
    asked, generate = [], run_figures.generate

    def watched(*arguments):
        asked.append(arguments[-1])  # the guidance
        return generate(*arguments)

    monkeypatch.setattr(run_figures, "generate", watched)
    few = [word for word in QUICK if word != "--unconditional"]
    assert command("train_mnist", "--data-dir", digits, "--out", "run", *few)[0] == 0
    unet, process = minddpm.load(tmp_path / "run")
    assert unet.num_classes == 10
    samples = minddpm.generate((unet, process), 2, steps=2)
    for step in minddpm.samplers.ddim(process, unet, samples.shape, steps=2, seed=0):
        assert np.isfinite(step.x).all()  # of no class
    more = ["--data-dir", digits, "--out", "run", "--resume", "--steps", 3]
    refused(command("train_mnist", *more, "--unconditional"), "=True, not False", "--unconditional")

    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for name in ("one", "two"):
        Image.new("L", (8, 8)).save(pictures / f"{name}.png")
    images = ["--data", pictures, "--image-size", 8, "--out", "plain"]
    assert command("train_mnist", *images, *few)[0] == 0
    assert minddpm.load(tmp_path / "plain").unet.num_classes == 0
    few += ["--label-dropout", 0]
    assert command("train_mnist", "--data-dir", digits, "--out", "undropped", *few)[0] == 0
    assert asked == [1.5, 1.0, 1.0]


def test_a_class_conditional_run(command, conditional, digits, tmp_path):
    with Image.open(conditional / "samples.png") as image:
        assert image.height > image.width  # one row per class
    unet = minddpm.UNet2D.from_pretrained(conditional)
    assert (unet.config["num_class_embeds"], unet.config["out_channels"]) == (11, 2)
    arguments = ["--model", conditional, "--count", 2, "--steps", 2, "--backend", "numpy"]
    for more in ([], ["--label", 7, "--guidance", 2]):
        assert command("sample", *arguments, *more)[0] == 0
    for label in (-1, 10, 11):
        refused(command("sample", *arguments, "--label", label), f"label {label}", "0, 1, 2", "9")
    refused(command("sample", *arguments, "--guidance", -1), "guidance -1")
    more = ["--data-dir", digits, "--out", conditional, "--resume", "--steps", 3]
    code, stdout, _ = command(
        "train_mnist", *more, "--sample-steps", 2, "--samples", 4, "--backend", "numpy"
    )
    assert code == 0, stdout
    refused(command("train_mnist", *more, "--loss", "vlb"), "loss=hybrid", "--loss")


@pytest.mark.parametrize("run", ["trained", "conditional"])
def test_editing(command, request, run, digits, tmp_path):
    model = ["--model", request.getfixturevalue(run), "--data-dir", digits, *NUMPY]
    few = ["--count", 2, "--tries", 2, "--steps", 2, "--resample", 2]
    assert command("inpaint", *model, *few, "--missing", "centre")[0] == 0
    pairs = ["--pairs", 2, "--between", 1, "--steps", 2]
    assert command("interpolate", *model, *pairs, "--out", "way.png")[0] == 0
    for name in ("inpaint.png", "way.png"):
        with Image.open(tmp_path / name) as image:
            image.verify()
    for name in ("inpaint", "interpolate"):
        refused(command(name, *model, "--out", "way.png"), "way.png", "another name")
        refused(command(name, *model, "--steps", 41), "41 sampling steps", "1 .. 40")
    refused(command("inpaint", *model, "--count", 31), "31 test images")


def test_a_backend_without_a_name_is_refused(command, trained):
    refused(command("sample", "--model", trained, "--backend", ""), "unknown backend ''", "numba")


def test_experiments(command, digits, tmp_path, monkeypatch):
    data = ["--data-dir", digits, "--images", 2, *NUMPY]
    code, stdout, _ = command("experiments", *data, "--out", "drawn")
    assert code == 0
    assert "| cosine |" in stdout
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == [
        "bound.png", "bound_pixels.png", "bound_snr.png", "noising.png", "schedules.png", "snr.png",
        "steps.png",
    ]  # fmt: skip
    refused(command("experiments", *data, "--out", "drawn"), "drawn exists")


def test_resuming_continues_with_the_same_options(command, digits, tmp_path):
    out = ["--data-dir", digits, "--out", "run"]
    assert command("train_mnist", *out, *QUICK)[0] == 0
    more = ["--resume", "--steps", 3, "--sample-steps", 2, "--samples", 4, "--backend", "numpy"]
    code, stdout, _ = command("train_mnist", *out, *more)
    assert code == 0
    assert "resuming run at step 2" in stdout
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert (options["steps"], options["batch_size"]) == (3, 2)
    refused(command("train_mnist", *out, *more, "--lr", 0.5), "lr=0.002", "--lr", "--out")
    refused(command("train_mnist", *out, *more, "--steps", 2), "already at step 3", "--steps")


# The options of Ho et al. 2020, which runs had before there were others.
PLAIN = ["--model", "small", "--optimizer", "adam", "--lr", "1e-3", "--prediction", "epsilon"]
PLAIN += ["--schedule", "linear", "--draw-t", "uniform", "--cooldown", "0", "--ema-decay", "0.999"]


def test_an_older_run_resumes_with_the_options_that_it_had(command, digits, tmp_path):
    run = ["--data-dir", digits, "--out", "run", "--backend", "numpy"]
    assert command("train_mnist", *run, *QUICK, *PLAIN)[0] == 0
    run_json = tmp_path / "run" / "run.json"
    info = json.loads(run_json.read_text())
    for name in ("cooldown", "optimizer", "draw_t"):
        del info["options"][name]
    run_json.write_text(json.dumps(info))
    more = ["--resume", "--steps", 3, "--sample-steps", 2, "--samples", 4]
    assert command("train_mnist", *run, *more)[0] == 0
    options = json.loads(run_json.read_text())["options"]
    now = options["cooldown"], options["optimizer"], options["draw_t"]
    assert now == (0.0, "adam", "uniform")


def test_a_cooldown_that_has_started_cannot_be_extended(command, digits, tmp_path):
    run = ["--data-dir", digits, "--out", "run", "--backend", "numpy"]
    more = [*run, "--resume", "--sample-steps", 2, "--samples", 4]
    assert command("train_mnist", *run, *QUICK, "--cooldown", 0)[0] == 0
    run_json = tmp_path / "run" / "run.json"
    info = json.loads(run_json.read_text())
    del info["options"]["cooldown"]  # as in a run from before this option existed
    run_json.write_text(json.dumps(info))
    before = snapshot(tmp_path)
    late = command("train_mnist", *more, "--steps", 4, "--cooldown", 0.75)
    refused(late, "step 2 of", "cooldown=0.0", "cooldown=0.75", "--out")
    assert snapshot(tmp_path) == before
    assert command("train_mnist", *more, "--steps", 4, "--cooldown", 0.5)[0] == 0
    assert command("train_mnist", *more)[0] == 0  # the run is finished
    code, stdout, _ = command("train_mnist", *more, "--steps", 6)
    assert (code, "resuming run at step 2" in stdout) == (0, True)  # where the cooldown began
    (tmp_path / "run" / BEFORE_COOLDOWN).unlink()
    refused(command("train_mnist", *more, "--steps", 8), "step 6 of", "steps=8", "--cooldown")


def test_resuming_with_other_data_is_refused(command, digits, tmp_path):
    assert command("train_mnist", "--data-dir", digits, "--out", "run", *QUICK)[0] == 0
    other = tmp_path / "other"
    shutil.copytree(digits, other)
    images = other / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1] + b"\x00")
    before = snapshot(tmp_path)
    result = command("train_mnist", "--data-dir", other, "--out", "run", "--resume")
    refused(result, digits, other, "same data")
    assert snapshot(tmp_path) == before


def test_a_run_follows_its_image_folder(command, tmp_path):
    (tmp_path / "a").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), i * 100).save(tmp_path / "a" / f"{i}.png")
    train = ["train_mnist", "--out", "run"]
    first = ["--image-folder", "a", "--image-size", 8, *QUICK]
    assert command(*train, *first)[0] == 0
    (tmp_path / "a").rename(tmp_path / "b")
    refused(command(*train, "--resume", "--steps", 4), tmp_path / "a", "--image-folder")
    assert command(*train, "--resume", "--steps", 4, "--image-folder", "b")[0] == 0
    assert command(*train, "--resume", "--steps", 6)[0] == 0  # run.json names the new folder
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    Image.new("L", (8, 8), 99).save(tmp_path / "c" / "1.png")
    other = command(*train, "--resume", "--steps", 8, "--image-folder", "c")
    refused(other, "b", "c", "same data")


def test_a_name_that_the_terminal_cannot_show(tmp_path):
    folder = tmp_path / os.fsdecode(b"b\xff")
    folder.mkdir()
    Image.new("L", (8, 8)).save(folder / "1.png")
    command = [sys.executable, EXAMPLES / "train_mnist.py", "--image-folder", folder]
    command += ["--image-size", "8", "--out", tmp_path / "run", *QUICK]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert r"b\udcff" in done.stdout
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["images"] == 1


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", "64"), ("model", "huge"), ("schedule", None), ("steps", 2.5)]
)
def test_an_invalid_run_json_is_refused(command, trained, tmp_path, name, value):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    info = json.loads(path.read_text())
    info["options"][name] = value
    path.write_text(json.dumps(info))
    refused(command("train_mnist", "--out", "run", "--resume"), "run.json", name)


def test_ctrl_c_prints_how_to_continue(command, digits, monkeypatch):
    """Also while samples are drawn after the training; --resume then draws them."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("minddpm.commands.run_figures.draw_samples", interrupted)
    code, stdout, _ = command("train_mnist", "--data-dir", digits, "--out", "run", *QUICK)
    assert code == 130
    assert f"--data-dir {digits}" in stdout
    assert stdout.rstrip().endswith("--resume")


def test_default_names_never_overwrite(command, digits, trained, tmp_path):
    for number in ("", "-2"):
        assert command("train_mnist", "--data-dir", digits, *QUICK)[0] == 0
        assert (tmp_path / f"runs/mnist{number}" / "samples.png").is_file()
        sampled = command("sample", "--model", trained, "--count", 1, "--steps", 1)
        assert sampled[0] == 0
        assert (tmp_path / f"samples{number}.png").is_file()


def test_epochs(command, digits):
    arguments = ["--data-dir", digits, "--epochs", 1, "--batch-size", 20, *QUICK[4:]]
    code, stdout, _ = command("train_mnist", *arguments)
    assert code == 0
    assert "2 steps of 20 images" in stdout  # 30 digits in batches of 20, rounded up


def test_training_on_a_folder_of_images(command, tmp_path):
    for i in range(3):
        Image.new("RGB", (40, 30), (i * 100, 0, 0)).save(tmp_path / f"{i}.png")
    arguments = ["--image-folder", tmp_path, "--image-size", 8, "--out", tmp_path / "run"]
    assert command("train_mnist", *arguments, *QUICK)[0] == 0


@pytest.mark.parametrize("name", ["train_mnist", "sample"])
def test_help_exits_with_code_0(command, name):
    code, stdout, _ = command(name, "--help")
    assert code == 0
    assert "--backend" in stdout
    assert "--threads" in stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--backend", "cupy"], ["cupy", "--backend numpy"]),
        (["--backend", "torch"], ["'torch'", "numpy"]),
        (["--threads", "0"], ["0 threads", "--threads 1"]),
        (["--threads", "100000", "--backend", "numba"], ["100000", "--threads 1 .. "]),
        (["--precision", "tf32", "--backend", "numpy"], ["tf32", "--backend cupy"]),
        (["--precision", "int8"], ["int8", "fp16"]),
        (["--loss", "hybrid"], ["hybrid", "learned_range"]),
        (["--variance", "learned_range"], ["learned_range", "--loss hybrid"]),
        (["--label-dropout", "2"], ["label_dropout=2.0"]),
        (["--class-conditional", "--image-folder", "images"], ["labels", "--class-conditional"]),
        (["--steps", "0"], ["--steps", "below 1"]),
        (["--steps", "many"], ["--steps"]),
        (["--seed", "-1"], ["-1", "choose 0"]),
        (["--lr", "0"], ["lr=", "above 0"]),
        (["--lr", "nan"], ["lr=", "above 0"]),
        (["--ema-decay", "1.5"], ["ema_decay=1.5", "1."]),
        (["--cooldown", "1.5"], ["cooldown=1.5", "a constant rate"]),
        (["--timesteps", "10", "--schedule", "linear"], ["choose T above 20"]),
        (["--sample-steps", "41"], ["41", "1 .. 40"]),
        (["--resume"], ["no run"]),
        (["--steps", "3", "--epochs", "1"], ["--epochs", "not allowed"]),
        (["--timesteps", "1" + "0" * 11], ["T = 1", "at most 1,000,000"]),
        (["--out", "file"], ["file", "--out"]),
        (["--image-folder", "empty"], ["empty"]),
        (["--image-folder", "images", "--image-size", "30"], ["30 x 30", "multiples of 4"]),
    ],
)
def test_bad_options_of_train_are_refused(command, digits, tmp_path, arguments, words):
    if "cupy" in arguments and not _cupy_is_missing():
        pytest.skip("cupy works here")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "empty").mkdir()
    (tmp_path / "images").mkdir()
    Image.new("L", (40, 30)).save(tmp_path / "images" / "a.png")
    before = snapshot(tmp_path)
    data = [] if "--image-folder" in arguments else ["--data-dir", digits]
    refused(command("train_mnist", *data, *QUICK, *arguments), *words)
    assert snapshot(tmp_path) == before


def test_bad_data_is_refused(command, tmp_path):
    refused(command("train_mnist", "--data-dir", tmp_path), tmp_path, "train-images")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\x00\x00\x08\x03\x00\x00")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 1) + b"\x00")
    refused(command("train_mnist", "--data-dir", tmp_path), "train-images-idx3-ubyte")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    refused(command("train_mnist", "--data-dir", tmp_path), "train-images-idx3-ubyte")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nowhere"], ["nowhere", "run directory"]),
        (["--model", "empty"], ["empty", "run directory"]),
        (["--model", "pickle"], ["pickle", "save_pretrained"]),
        (["--model", "truncated"], ["truncated", "copy it again"]),
        (["--model", "mixed"], ["another architecture"]),
        (["--model", "MODEL", "--steps", "0"], ["0 sampling steps", "1 .. 40"]),
        (["--model", "MODEL", "--steps", "41"], ["41 sampling steps", "1 .. 40"]),
        (["--model", "MODEL", "--count", "0"], ["--count", "below 1"]),
        (["--model", "MODEL", "--seed", "-1"], ["-1", "choose 0"]),
        (["--model", "MODEL", "--sampler", "magic"], ["magic", "ddim"]),
        (["--model", "MODEL", "--eta", "0.5"], ["ddpm has no eta", "ddim"]),
        (["--model", "MODEL", "--spacing", "even", "--steps", "2"], ["'even'", "leading"]),
        (["--model", "MODEL", "--spacing", "ddim4", "--steps", "4"], ["leave out steps"]),
        (["--model", "MODEL", "--spacing", "ddim27"], ["no integer stride"]),
        (["--model", "MODEL", "--out", "taken.png"], ["taken.png", "another name"]),
        (["--model", "MODEL", "--out", "file/a.png"], ["a.png", "folder"]),
        (["--model", "MODEL", "--out", "a.png", "--npz", "a.png"], ["two names"]),
        (["--model", "MODEL", "--label", "7"], ["label 7", "omit --label"]),
        (["--model", "MODEL", "--guidance", "2"], ["not class-conditional", "omit --guidance"]),
        (["--model", "x" * 300], ["x" * 300]),
        (["--model", "MODEL", "--count", "1" + "0" * 12], ["memory", "smaller"]),
        (["--model", "MODEL", "--backend", "cupy"], ["cupy"]),
        (["--model", "MODEL", "--threads", "-1"], ["-1 threads", "--threads 1"]),
        (["--model", "MODEL", "--threads", "100000", "--backend", "numba"], ["100000", "1 .. "]),
        (["--model", "MODEL", "--precision", "fp16", "--backend", "numpy"], ["--backend cupy"]),
    ],
)
def test_bad_options_of_sample_are_refused(command, trained, tmp_path, arguments, words):
    if "cupy" in arguments and not _cupy_is_missing():
        pytest.skip("cupy works here")
    for name in ("empty", "pickle"):
        (tmp_path / name).mkdir()
    unet = minddpm.UNet2D.from_pretrained(trained)
    for name in ("pickle", "truncated", "mixed"):
        save_pipeline(unet, load_diffusion(trained), tmp_path / name)
    weights = Path("unet", WEIGHTS)
    (tmp_path / "pickle" / weights).rename(tmp_path / "pickle/unet/diffusion_pytorch_model.bin")
    cut = tmp_path / "truncated" / weights
    cut.write_bytes(cut.read_bytes()[:-1000])
    config = tmp_path / "mixed/unet/config.json"
    changed = {**json.loads(config.read_text()), "block_out_channels": [16, 64, 64]}
    config.write_text(json.dumps(changed))
    for name in ("file", "taken.png"):
        (tmp_path / name).write_text("precious")

    before = snapshot(tmp_path)
    arguments = [trained if a == "MODEL" else a for a in arguments]
    refused(command("sample", "--count", "1", *arguments), *words)
    assert snapshot(tmp_path) == before


def _cupy_is_missing():
    try:
        minddpm.set_backend("cupy")
    except minddpm.InputError:
        return True
    return False
