"""The commands: what they leave, and one sentence with exit code 2 for whatever is wrong."""

import gzip
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import minddpm
from minddpm import checkpoint, cli
from minddpm.generate import ADAPTIVE, SAMPLERS

EXAMPLES = Path(__file__).parent.parent / "examples"
QUICK = ["--steps", "2", "--batch-size", "2", "--timesteps", "40", "--sample-steps", "2"]
QUICK += ["--samples", "4", "--backend", "numpy"]


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """command("sample", "--model", ...) -> (exit code, stdout, stderr), from within tmp_path."""
    monkeypatch.chdir(tmp_path)

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"examples/{name}.py", *map(str, arguments)])
        try:
            code = cli.run(load(name).main)
        except SystemExit as stop:  # argparse
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder with 30 tiny "digits" in MNIST's files."""
    folder = tmp_path_factory.mktemp("digits")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        header = struct.pack(">IIII", 0x803, *pixels.shape)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = gzip.compress(struct.pack(">II", 0x801, 30) + bytes(i % 10 for i in range(30)))
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(labels)
    return folder


@pytest.fixture(scope="session")
def trained(digits, tmp_path_factory):
    """A finished run of two steps, made by the real command in a process of its own."""
    out = tmp_path_factory.mktemp("runs") / "run"
    arguments = ["--data-dir", digits, "--out", out, *QUICK]
    subprocess.run(
        [sys.executable, EXAMPLES / "train_mnist.py", *arguments],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    return out


def snapshot(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def refused(result, *words):
    """Exit code 2 and one sentence on stderr, no traceback."""
    code, _, stderr = result
    assert code == 2, stderr
    sentence = stderr.strip().splitlines()[-1]
    assert re.match(r"(\w+\.py: )?error: ", sentence)
    assert "Traceback" not in stderr
    for word in words:
        assert str(word) in sentence


def test_training_leaves_what_it_promises(trained):
    for name in ("samples.png", "forward.png", "loss.png", "denoising.gif"):
        with Image.open(trained / name) as picture:
            picture.verify()
    assert (trained / "loss.csv").read_text().startswith("step,loss,")
    run = json.loads((trained / "run.json").read_text())
    assert run["options"]["batch_size"] == 2
    assert run["options"]["seed"] == 0
    assert run["options"]["threads"] is None  # numpy's own affair
    assert set(run["versions"]) >= {"minddpm", "numpy", "python"}
    assert (trained / "model_index.json").is_file()
    assert not list(trained.rglob("*.bin"))
    assert not list(trained.rglob("*.pkl"))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampling(command, trained, tmp_path, sampler):
    arguments = ["--model", trained, "--count", 3, "--steps", 2, "--sampler", sampler]
    files = ["--out", "a.png", "--npz", "a.npz"]
    code, stdout, _ = command("sample", *arguments, "--backend", "numpy", *files)
    assert code == 0
    assert "3 pictures by" in stdout
    assert "a.png" in stdout
    images = np.load(tmp_path / "a.npz")["images"]
    assert images.shape == (3, 28, 28)
    assert images.dtype == np.uint8
    again = command("sample", *arguments, "--batch-size", 2, "--backend", "numpy", "--npz", "b.npz")
    assert again[0] == 0
    difference = images.astype(int) - np.load(tmp_path / "b.npz")["images"]
    if sampler not in ADAPTIVE:  # which chooses its steps for a whole batch
        assert np.abs(difference).max() <= 1  # other roundings in the products


@pytest.fixture(scope="session")
def conditional(digits, tmp_path_factory):
    """A class-conditional run with a learned variance."""
    out = tmp_path_factory.mktemp("runs") / "conditional"
    arguments = ["--data-dir", digits, "--out", out, *QUICK, "--class-conditional"]
    arguments += ["--variance", "learned_range", "--loss", "hybrid", "--importance-sampling"]
    subprocess.run(
        [sys.executable, EXAMPLES / "train_mnist.py", *arguments],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    return out


def test_a_class_conditional_run(command, conditional, digits, tmp_path):
    with Image.open(conditional / "samples.png") as picture:
        assert picture.height > picture.width  # a row for each digit
    unet = minddpm.UNet2D.from_pretrained(conditional)
    assert (unet.config["num_class_embeds"], unet.config["out_channels"]) == (11, 2)
    arguments = ["--model", conditional, "--count", 2, "--steps", 2, "--backend", "numpy"]
    for more in ([], ["--label", 7, "--guidance", 2]):
        assert command("sample", *arguments, *more)[0] == 0
    for label in (-1, 10, 11):
        refused(command("sample", *arguments, "--label", label), f"label {label}", "0 .. 9")
    refused(command("sample", *arguments, "--guidance", -1), "guidance -1")
    more = ["--data-dir", digits, "--out", conditional, "--resume", "--steps", 3]
    code, stdout, _ = command(
        "train_mnist", *more, "--sample-steps", 2, "--samples", 4, "--backend", "numpy"
    )
    assert code == 0, stdout
    refused(command("train_mnist", *more, "--loss", "vlb"), "loss=hybrid", "--loss")


NUMPY = ["--backend", "numpy"]


@pytest.mark.parametrize("run", ["trained", "conditional"])
def test_evaluating(command, request, run, digits, tmp_path):
    model = ["--model", request.getfixturevalue(run), "--data-dir", digits, *NUMPY]
    model += ["--count", 0]
    options = ["--images", 3, "--batch-size", 2]
    for how in (["--draws", 2], ["--exact"]):
        file = tmp_path / f"{how[0]}.json"
        code, stdout, _ = command("evaluate", *model, *options, *how, "--json", file)
        assert code == 0
        numbers = json.loads(file.read_text())
        parts = [numbers[name]["value"] for name in ("L_T", "L_between", "L_0")]
        assert numbers["bits_per_dim"]["value"] == pytest.approx(sum(parts))
        assert numbers["bits_per_dim"]["n"] == 3
        assert f"{numbers['bits_per_dim']['value']:.5g}" in stdout
    refused(command("evaluate", *model, "--json", tmp_path / "--exact.json"), "exists")
    refused(command("evaluate", *model, "--images", 31), "31", "30")
    refused(command("evaluate", *model, "--images", 2, "--draws", 40), "40 draws", "--exact")


@pytest.mark.parametrize("run", ["trained", "conditional"])
def test_judging_a_model_by_its_pictures(command, request, run, digits, tmp_path):
    model = ["--model", request.getfixturevalue(run), "--data-dir", digits, *NUMPY]
    how = ["--count", 70, "--steps", 2, "--images", 2, "--draws", 2]
    how += ["--classification-steps", 0, "--nearest", tmp_path / "near.png"]
    code, stdout, _ = command("evaluate", *model, *how, "--json", tmp_path / "e.json")
    assert code == 0, stdout
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert {"fid", "kid", "inception_score", "precision", "recall", "bits_per_dim"} < set(numbers)
    assert "classification_score" not in numbers
    fid = numbers["fid"]
    assert (fid["n"], fid["floor_n"], fid["steps"], fid["sampler"]) == (70, 30, 2, "dpm_solver")
    assert fid["weights"] == "EMA"
    assert fid["labels"] == ("the judge's" if run == "trained" else "the model was told them")
    assert f"{fid['value']:.5g}" in stdout
    assert "99.31%" in stdout
    with Image.open(tmp_path / "near.png") as picture:
        assert picture.size[0] > 300
    wrong = [*model, "--images", 2, "--draws", 2]
    refused(command("evaluate", *wrong, "--count", 64), "64 pictures", "65")
    refused(command("evaluate", *model, "--count", 0, "--images", 0), "nothing to measure")
    refused(command("evaluate", *wrong, "--steps", 41), "41")
    refused(command("evaluate", *wrong, "--judge", tmp_path / "none"), "does not exist")


def test_judging_pictures_from_a_file(command, digits, tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (70, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", images=images)
    data = ["--data-dir", digits, *NUMPY]
    how = ["--classification-steps", 2, "--json", tmp_path / "e.json"]
    code, stdout, _ = command("evaluate", "--samples", tmp_path / "a.npz", *data, *how)
    assert code == 0, stdout
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert numbers["classification_score"]["n"] == 70
    assert 0 <= numbers["classification_score"]["value"] <= 1
    assert "bits_per_dim" not in numbers
    for name, content in (("small", images[:, :14]), ("few", images[:3]), ("nan", images * np.nan)):
        np.savez(tmp_path / f"{name}.npz", images=content)
        refused(command("evaluate", "--samples", tmp_path / f"{name}.npz", *data), name)
    refused(command("evaluate", "--samples", tmp_path / "no.npz", *data), "no.npz")
    (tmp_path / "empty.npz").write_bytes(b"")
    refused(command("evaluate", "--samples", tmp_path / "empty.npz", *data), "empty.npz")


def test_training_the_judge(command, digits, tmp_path):
    run = ["--data-dir", digits, *NUMPY, "--out", tmp_path / "judge", "--batch-size", 4]
    code, stdout, _ = command("train_classifier", *run, "--steps", 1)
    assert code == 0, stdout
    assert re.search(r"% of 30 test digits after training on 30", stdout)
    left = {p.name for p in (tmp_path / "judge").iterdir()}
    assert {"classifier.safetensors", "mistakes.png", "loss.csv", "run.json"} < left
    refused(command("train_classifier", *run), "--resume")
    more = ["--data-dir", digits, "--out", tmp_path / "judge", "--resume"]
    refused(command("train_classifier", *more, "--lr", 1), "lr=0.004")
    code, stdout, _ = command("train_classifier", *more, "--steps", 2)
    assert code == 0
    assert "resuming" in stdout
    judge = ["--judge", tmp_path / "judge" / "classifier.safetensors"]
    np.savez(tmp_path / "a.npz", images=np.zeros((70, 28, 28), np.uint8))
    evaluated = command(
        "evaluate", "--samples", tmp_path / "a.npz", *judge, "--data-dir", digits, *NUMPY,
        "--classification-steps", 0,
    )  # fmt: skip
    assert evaluated[0] == 0, evaluated
    assert "classifier.safetensors" in evaluated[1]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("train_vae", {"vae.safetensors", "samples.png", "reconstructions.png"}),
        ("train_gan", {"generator.safetensors", "samples.png"}),
    ],
)
def test_training_the_others(command, digits, tmp_path, name, left):
    run = ["--data-dir", digits, *NUMPY, "--out", tmp_path / "run", "--batch-size", 4]
    code, stdout, _ = command(name, *run, "--steps", 1)
    assert code == 0, stdout
    assert left | {"loss.png", "loss.csv", "run.json"} < {
        p.name for p in (tmp_path / "run").iterdir()
    }
    assert re.search(r"1 steps of 4 images: about .* min", stdout)
    more = ["--data-dir", digits, "--out", tmp_path / "run", "--resume"]
    refused(command(name, *more, "--lr", 1), "lr=")
    code, stdout, _ = command(name, *more, "--steps", 2)
    assert code == 0
    assert "resuming" in stdout
    refused(command(name, *run), "--resume")
    refused(command(name, *run[:-4], "--out", tmp_path / "new", "--lr", -1), "lr=-1")


def test_a_vae_with_a_bound_in_bits(command, digits, tmp_path):
    run = ["--data-dir", digits, *NUMPY, "--out", tmp_path / "run", "--batch-size", 4]
    options = ["--steps", 1, "--likelihood", "gaussian", "--latent", 5]
    code, stdout, _ = command("train_vae", *run, *options)
    assert code == 0, stdout
    assert re.search(r"[\d.]+ bits/dim; \d of 5 units are active", stdout)
    refused(command("train_vae", *run, "--resume", "--latent", 6), "latent=5", "--latent")
    model = ["--model", tmp_path / "run", "--data-dir", digits, *NUMPY, "--images", 9]
    model += ["--draws", 2, "--classification-steps", 0]
    code, stdout, _ = command("evaluate", *model, "--count", 70, "--json", tmp_path / "e.json")
    assert code == 0, stdout
    numbers = json.loads((tmp_path / "e.json").read_text())
    assert numbers["fid"]["sampler"] == "one pass of the VAE"
    parts = numbers["reconstruction"]["value"] + numbers["kl"]["value"]
    assert numbers["bits_per_dim"]["value"] == pytest.approx(parts)
    assert numbers["bits_per_dim"]["n"] == 9


def test_judging_a_gan(command, digits, tmp_path):
    run = ["--data-dir", digits, *NUMPY, "--out", tmp_path / "run", "--batch-size", 4]
    assert command("train_gan", *run, "--steps", 1)[0] == 0
    model = ["--model", tmp_path / "run", "--data-dir", digits, *NUMPY]
    code, stdout, _ = command("evaluate", *model, "--count", 70, "--classification-steps", 0)
    assert code == 0, stdout
    assert "FID" in stdout
    assert "bits/dim" not in stdout
    refused(command("evaluate", *model, "--count", 0), "no bound", "--count")


@pytest.mark.parametrize("run", ["trained", "conditional"])
def test_editing(command, request, run, digits, tmp_path):
    model = ["--model", request.getfixturevalue(run), "--data-dir", digits, *NUMPY]
    few = ["--count", 2, "--tries", 2, "--steps", 2, "--resample", 2]
    assert command("inpaint", *model, *few, "--missing", "centre")[0] == 0
    pairs = ["--pairs", 2, "--between", 1, "--steps", 2]
    assert command("interpolate", *model, *pairs, "--out", "way.png")[0] == 0
    for name in ("inpaint.png", "way.png"):
        with Image.open(tmp_path / name) as picture:
            picture.verify()
    for name in ("inpaint", "interpolate"):
        refused(command(name, *model, "--out", "way.png"), "way.png", "another name")
        refused(command(name, *model, "--steps", 41), "41 sampling steps", "1 .. 40")
    refused(command("inpaint", *model, "--count", 31), "31 test images")


def test_experiments(command, digits, tmp_path, monkeypatch):
    data = ["--data-dir", digits, "--images", 2, *NUMPY]
    code, stdout, _ = command("experiments", *data, "--out", "drawn")
    assert code == 0
    assert "| cosine |" in stdout
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == [
        "bound.png", "noising.png", "schedules.png", "snr.png", "steps.png",
    ]  # fmt: skip
    refused(command("experiments", *data, "--out", "drawn"), "drawn exists")


def test_resuming_goes_on_and_keeps_the_options(command, digits, tmp_path):
    out = ["--data-dir", digits, "--out", "run"]
    assert command("train_mnist", *out, *QUICK)[0] == 0
    more = ["--resume", "--steps", 3, "--sample-steps", 2, "--samples", 4, "--backend", "numpy"]
    code, stdout, _ = command("train_mnist", *out, *more)
    assert code == 0
    assert "resuming run at step 2" in stdout
    options = json.loads((tmp_path / "run" / "run.json").read_text())["options"]
    assert (options["steps"], options["batch_size"]) == (3, 2)
    refused(command("train_mnist", *out, *more, "--lr", 0.5), "lr=0.001", "--lr", "--out")
    refused(command("train_mnist", *out, *more, "--steps", 2), "step 3 already", "--steps")


def test_resuming_with_other_pictures_is_refused(command, digits, tmp_path):
    assert command("train_mnist", "--data-dir", digits, "--out", "run", *QUICK)[0] == 0
    other = tmp_path / "other"
    shutil.copytree(digits, other)
    images = other / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1] + b"\x00")
    before = snapshot(tmp_path)
    result = command("train_mnist", "--data-dir", other, "--out", "run", "--resume")
    refused(result, digits, other, "same data")
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(
    ("name", "value"), [("batch_size", "64"), ("model", "huge"), ("schedule", None), ("steps", 2.5)]
)
def test_a_spoilt_run_json(command, trained, tmp_path, name, value):
    shutil.copytree(trained, tmp_path / "run")
    path = tmp_path / "run" / "run.json"
    info = json.loads(path.read_text())
    info["options"][name] = value
    path.write_text(json.dumps(info))
    refused(command("train_mnist", "--out", "run", "--resume"), "run.json", name)


def test_ctrl_c_says_how_to_go_on(command, digits, monkeypatch):
    """Also in the pictures after the training, which --resume then draws."""

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("minddpm.report.draw_samples", interrupted)
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


def test_a_folder_of_pictures(command, tmp_path):
    for i in range(3):
        Image.new("RGB", (40, 30), (i * 100, 0, 0)).save(tmp_path / f"{i}.png")
    arguments = ["--image-folder", tmp_path, "--image-size", 8, "--out", tmp_path / "run"]
    assert command("train_mnist", *arguments, *QUICK)[0] == 0


@pytest.mark.parametrize("name", ["train_mnist", "sample"])
def test_help_ends_by_itself(command, name):
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
        (["--class-conditional", "--image-folder", "pictures"], ["labels", "--class-conditional"]),
        (["--steps", "0"], ["--steps", "below 1"]),
        (["--steps", "many"], ["--steps"]),
        (["--seed", "-1"], ["-1", "choose 0"]),
        (["--lr", "0"], ["lr=", "above 0"]),
        (["--lr", "nan"], ["lr=", "above 0"]),
        (["--ema-decay", "1.5"], ["ema_decay=1.5", "1."]),
        (["--timesteps", "10"], ["choose T above 20"]),
        (["--sample-steps", "41"], ["41", "1 .. 40"]),
        (["--resume"], ["no run"]),
        (["--steps", "3", "--epochs", "1"], ["--epochs", "not allowed"]),
        (["--timesteps", "1" + "0" * 11], ["memory", "smaller"]),
        (["--out", "file"], ["file", "--out"]),
        (["--image-folder", "empty"], ["empty"]),
        (["--image-folder", "pictures", "--image-size", "30"], ["30 x 30", "multiples of 4"]),
    ],
)
def test_bad_options_of_train(command, digits, tmp_path, arguments, words):
    if "cupy" in arguments and not _cupy_is_missing():
        pytest.skip("cupy works here")
    (tmp_path / "file").write_text("precious")
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    Image.new("L", (40, 30)).save(tmp_path / "pictures" / "a.png")
    before = snapshot(tmp_path)
    data = [] if "--image-folder" in arguments else ["--data-dir", digits]
    refused(command("train_mnist", *data, *QUICK, *arguments), *words)
    assert snapshot(tmp_path) == before


def test_bad_data(command, tmp_path):
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
        (["--model", "MODEL", "--out", "taken.png"], ["taken.png", "another name"]),
        (["--model", "MODEL", "--out", "file/a.png"], ["a.png", "folder"]),
        (["--model", "MODEL", "--out", "a.png", "--npz", "a.png"], ["two names"]),
        (["--model", "MODEL", "--label", "7"], ["label 7", "leave --label out"]),
        (["--model", "MODEL", "--guidance", "2"], ["no classes", "--class-conditional"]),
        (["--model", "x" * 300], ["x" * 300]),
        (["--model", "MODEL", "--count", "1" + "0" * 12], ["memory", "smaller"]),
        (["--model", "MODEL", "--backend", "cupy"], ["cupy"]),
        (["--model", "MODEL", "--threads", "-1"], ["-1 threads", "--threads 1"]),
        (["--model", "MODEL", "--threads", "100000", "--backend", "numba"], ["100000", "1 .. "]),
        (["--model", "MODEL", "--precision", "fp16", "--backend", "numpy"], ["--backend cupy"]),
    ],
)
def test_bad_options_of_sample(command, trained, tmp_path, arguments, words):
    if "cupy" in arguments and not _cupy_is_missing():
        pytest.skip("cupy works here")
    for name in ("empty", "pickle"):
        (tmp_path / name).mkdir()
    unet = minddpm.UNet2D.from_pretrained(trained)
    for name in ("pickle", "truncated", "mixed"):
        checkpoint.save_pipeline(unet, checkpoint.load_diffusion(trained), tmp_path / name)
    weights = Path("unet", checkpoint.WEIGHTS)
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
