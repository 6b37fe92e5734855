"""The commands that train the judge, the VAE and the GAN."""

import json
import re

import numpy as np
import pytest
from commands import NUMPY, refused


def test_training_the_judge(command, digits, tmp_path):
    run = ["--data-dir", digits, *NUMPY, "--out", tmp_path / "judge", "--batch-size", 4]
    code, stdout, _ = command("train_classifier", *run, "--steps", 1)
    assert code == 0, stdout
    assert re.search(r"% of 30 test digits after training on 30", stdout)
    files = {p.name for p in (tmp_path / "judge").iterdir()}
    assert {"classifier.safetensors", "mistakes.png", "loss.csv", "run.json"} < files
    refused(command("train_classifier", *run), "--resume")
    more = ["--data-dir", digits, "--out", tmp_path / "judge", "--resume"]
    refused(command("train_classifier", *more, "--lr", 1), "lr=0.004")
    longer = command("train_classifier", *more, "--steps", 2)
    refused(longer, "steps=1", "cooldown=1")  # the rate of past steps would differ
    code, stdout, _ = command("train_classifier", *more)
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
    ("name", "files"),
    [
        ("train_vae", {"vae.safetensors", "samples.png", "reconstructions.png"}),
        ("train_gan", {"generator.safetensors", "samples.png"}),
    ],
)
def test_training_the_others(command, digits, tmp_path, name, files):
    run = ["--data-dir", digits, *NUMPY, "--out", tmp_path / "run", "--batch-size", 4]
    code, stdout, _ = command(name, *run, "--steps", 1)
    assert code == 0, stdout
    assert files | {"loss.png", "loss.csv", "run.json"} < {
        p.name for p in (tmp_path / "run").iterdir()
    }
    assert re.search(r"1 steps of 4 images: about .* min", stdout)
    more = ["--data-dir", digits, "--out", tmp_path / "run", "--resume"]
    refused(command(name, *more, "--lr", 1), "lr=")
    code, stdout, _ = command(name, *more, "--steps", 2)
    assert code == 0
    assert "resuming" in stdout
    refused(command(name, *run), "--resume")
    (tmp_path / "run" / "training_state.safetensors").unlink()
    refused(command(name, *more), "training_state.safetensors is missing")
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
    refused(command("evaluate", *model, "--images", 31), "31", "30")
