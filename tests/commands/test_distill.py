"""examples/distill.py: the run that it writes, resuming it, and bad input."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
from commands import NUMPY, load, refused

import minddpm
from minddpm import GaussianDiffusion
from minddpm.diffusion.scheduler_file import few_steps
from minddpm.diffusion.schedules import linear
from minddpm.pipeline import save_pipeline


@pytest.fixture
def arguments(trained, digits, tmp_path):
    """Arguments of a progressive distillation of the model of 40 timesteps from 8 steps to 2."""
    return [
        "--model", trained, "--data-dir", digits, "--out", tmp_path / "few", *NUMPY,
        "--method", "progressive", "--teacher-steps", 8, "--sampling-steps", 2,
        "--steps-per-stage", 1, "--batch-size", 2, "--samples", 4,
    ]  # fmt: skip


def test_distilling_sampling_and_distilling_again(command, arguments, digits, tmp_path):
    few = tmp_path / "few"
    code, stdout, stderr = command("distill", *arguments)
    assert code == 0, stderr
    assert "2 stages of 1 training steps: 8 to 2 sampling steps" in stdout
    names = {path.name for path in few.iterdir()}
    assert {"samples.png", "denoising.gif", "loss.png", "loss.csv", "run.json", "unet"} < names
    assert json.loads((few / "scheduler/scheduler_config.json").read_text())["_sampling_steps"] == 2

    code, stdout, _ = command("sample", "--model", few, "--count", 2, *NUMPY, "--npz", "a.npz")
    assert (code, "2 samples in 2 ddim steps" in stdout) == (0, True)
    code, stdout, _ = command("sample", "--model", few, "--count", 2, *NUMPY, "--steps", 1)
    assert (code, "2 samples in 1 ddim steps" in stdout) == (0, True)

    again = [few, *arguments[2:4], "--out", tmp_path / "one", *NUMPY, *arguments[-6:]]
    again += ["--method", "progressive"]
    code, stdout, _ = command("distill", "--model", *again, "--sampling-steps", 1)
    assert (code, "1 stages of 1 training steps: 2 to 1" in stdout) == (0, True)
    assert minddpm.load(tmp_path / "one").diffusion.sampling.steps == 1


def test_a_consistency_model(command, trained, digits, tmp_path):
    few, data = tmp_path / "few", ["--data-dir", digits, *NUMPY]
    options = ["--model", trained, "--out", few, *data, "--steps-per-stage", 1, "--batch-size", 2]
    code, stdout, stderr = command("distill", *options, "--samples", 4)
    assert code == 0, stderr
    assert "6 stages of 1 training steps: 2 sampling steps" in stdout
    config = json.loads((few / "scheduler/scheduler_config.json").read_text())
    assert (config["_class_name"], config["_sampling_steps"]) == ("LCMScheduler", 2)
    code, stdout, _ = command("sample", "--model", few, "--count", 2, *NUMPY)
    assert (code, "2 samples in 2 consistency steps" in stdout) == (0, True)
    code, stdout, _ = command("distill", "--out", few, "--resume", *data, "--samples", 4)
    assert (code, "at step 6" in stdout) == (0, True)
    refused(
        command("distill", "--out", few, "--resume", *data, "--method", "progressive"), "method"
    )
    for more in (["--teacher-steps", 8], ["--guidance", 2]):
        refused(command("distill", *options[:2], *data, *more), more[0], "--method progressive")


def test_resuming(command, arguments, trained, tmp_path):
    assert command("distill", *arguments)[0] == 0
    refused(command("distill", *arguments), "already holds a run")
    resume = [*arguments[2:6], "--resume"]
    refused(command("distill", *resume, "--steps-per-stage", 2), "steps_per_stage=1")
    refused(command("distill", *resume, "--teacher-steps", 4), "teacher_steps=8")
    code, stdout, _ = command("distill", *resume, "--samples", 4)
    assert (code, "at step 2" in stdout) == (0, True)
    moved = shutil.copytree(trained, tmp_path / "moved")
    assert command("distill", *resume, "--model", moved, "--samples", 4)[0] == 0
    refused(command("distill", *resume, "--model", tmp_path / "few"), "another model")
    refused(command("distill", *resume, "--model", tmp_path / "none"), "none")


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--teacher-steps", 6], ("6 steps", "--teacher-steps")),
        (["--teacher-steps", 12, "--sampling-steps", 3], ("T = 40", "divisor")),
        (["--teacher-steps", 64], ("64", "T = 40")),
        (["--guidance", 2], ("not class-conditional", "--guidance")),
        (["--model", "nothing"], ("nothing",)),
        (["--lr", 0], ("lr=0",)),
        (["--image-folder", "x", "--data-dir", "y"], ("only one",)),
    ],
)
def test_bad_input(command, arguments, tmp_path, more, words):
    refused(command("distill", *arguments, *more), *words)
    assert not (tmp_path / "few" / "run.json").exists()


def test_models_that_cannot_be_distilled(command, arguments, conditional, tmp_path):
    refused(command("distill", *arguments, "--model", conditional), "learned variance")
    unet = minddpm.UNet2D(**{**minddpm.SMALL, "sample_size": 8})
    save_pipeline(unet, GaussianDiffusion(linear(40)), tmp_path / "small")
    refused(command("distill", *arguments, "--model", tmp_path / "small"), "(8, 8, 1)")
    refused(command("distill", *arguments[2:]), "--model is missing")


@pytest.mark.parametrize(
    ("sampler", "steps", "wanted"),
    [(None, None, ("ddim", 2)), (None, 4, ("ddim", 4)), ("ddpm", None, ("ddpm", 20))],
)
def test_a_distilled_model_is_evaluated_in_its_own_steps(sampler, steps, wanted):
    d, args = GaussianDiffusion(linear(40)), SimpleNamespace(sampler=sampler, steps=steps)
    d.sampling = few_steps(2)
    load("evaluate").choose_sampler(args, d)
    assert (args.sampler, args.steps) == wanted


def test_the_guided_model_of_a_class(command, arguments, digits, tmp_path):
    teacher = tmp_path / "teacher"
    options = ["--steps", 1, "--batch-size", 2, "--timesteps", 40, "--sample-steps", 1, *NUMPY]
    options += ["--samples", 1, "--data-dir", digits, "--class-conditional", "--prediction", "v"]
    assert command("train_mnist", *options, "--out", teacher)[0] == 0
    code, _, stderr = command("distill", *arguments, "--model", teacher, "--guidance", 2)
    assert code == 0, stderr
    few = ["--model", tmp_path / "few", "--label", 7, "--count", 2, *NUMPY, "--npz", "a.npz"]
    assert command("sample", *few)[0] == 0
    assert np.load(tmp_path / "a.npz")["labels"].tolist() == [7, 7]
