"""The process that draws samples while a run trains: it changes nothing, and ends with the run."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from builders import FEW, TINIEST, make_trainer, noise_images, random_unet, read_files, tiny_run
from PIL import Image
from test_watching import shown

from minddpm import pipeline, schedules
from minddpm.commands.watching import draw, sampler, watchers
from minddpm.commands.watching.page import PROGRESS, SAMPLES
from minddpm.commands.watching.sampler import Sampler, version, weights_of
from minddpm.diffusion import GaussianDiffusion
from minddpm.diffusion.scheduler_file import few_steps
from minddpm.training.run_directory import RunDirectory

posix = pytest.mark.skipif(os.name != "posix", reason="needs signals of Unix")


def saved_model(path, distilled=False, **config):
    """Write a model of 50 timesteps as a run saves it, and return the version of its weights."""
    process = GaussianDiffusion(schedules.linear(50), "v" if distilled else "epsilon")
    if distilled:
        process.sampling = few_steps(2)
    pipeline.save_pipeline(random_unet(TINIEST, scale=0.1, **config), process, path)
    return version(weights_of(path))


def names(path):
    return sorted(p.name for p in (path / "progress").glob("*.png"))


# --- one picture ---------------------------------------------------------------------------------


def test_pictures_of_two_steps(tmp_path):
    for step in (3, 12):
        draw.draw(tmp_path, seed=0, step=step, version=saved_model(tmp_path))
    assert names(tmp_path) == ["denoising-000012.png", "samples-000003.png", "samples-000012.png"]
    told = shown(tmp_path, SAMPLES)
    assert [entry["step"] for entry in told["pictures"]] == [3, 12]
    assert told["denoising"]["step"] == 12
    assert told["denoising"]["t"][0] == 49
    assert told["denoising"]["t"][-1] == 0
    first, second, frames = (
        np.asarray(Image.open(tmp_path / "progress" / name))
        for name in ("samples-000003.png", "samples-000012.png", "denoising-000012.png")
    )
    np.testing.assert_array_equal(first, second)  # the same seed and the same model
    assert frames.shape == (len(told["denoising"]["t"]) * len(first), first.shape[1])
    np.testing.assert_array_equal(frames[-len(first) :], first)  # the last frame are the samples
    assert (frames[: len(first)] != first).any()


@pytest.mark.parametrize("how", [{"distilled": True}, {"num_class_embeds": 4}])
def test_distilled_and_class_conditional_models(tmp_path, how):
    draw.draw(tmp_path, seed=0, step=3, version=saved_model(tmp_path, **how))
    frames = len(shown(tmp_path, SAMPLES)["denoising"]["t"])
    assert frames == 2 if "distilled" in how else frames > 2


def test_a_model_that_has_been_replaced_is_not_drawn(tmp_path):
    old = saved_model(tmp_path)
    new = saved_model(tmp_path)
    draw.draw(tmp_path, seed=0, step=3, version=old)
    assert names(tmp_path) == []
    draw.draw(tmp_path, seed=0, step=3, version=new)
    assert len(names(tmp_path)) == 2


def test_a_model_that_is_replaced_while_it_is_read_is_not_drawn(tmp_path, monkeypatch):
    old, load = saved_model(tmp_path), draw.load

    def slow(directory):
        model = load(directory)
        saved_model(tmp_path)
        return model

    monkeypatch.setattr(draw, "load", slow)
    draw.draw(tmp_path, seed=0, step=3, version=old)
    assert names(tmp_path) == []


# --- when samples are asked for ------------------------------------------------------------------


class Asked(Sampler):
    """A sampler without a process; `ready` decides whether it would be busy."""

    def __init__(self, path, steps, every=None, ready=lambda step: True):
        super().__init__(RunDirectory(path), steps, 0, every)
        self.steps_asked, self.ready = [], ready

    def start(self):
        self.process = object()

    def ask(self):
        if self.ready(self.step):
            self.last = self.step
            self.steps_asked.append(self.step)


@pytest.mark.parametrize(
    ("steps", "every", "ready", "expected"),
    [
        (2900, None, lambda step: True, list(range(200, 2900, 200))),  # 145, at checkpoints
        (2900, 1000, lambda step: True, [1000, 2000]),
        (400, 1, lambda step: True, [100, 200, 300]),  # the last step: when the training has ended
        (800, 1, lambda step: step not in (200, 300), [100, 400, 500, 600, 700]),
    ],
)
def test_the_steps_that_are_drawn(tmp_path, steps, every, ready, expected):
    saved_model(tmp_path)
    asked = Asked(tmp_path, steps, every, ready)
    for step in range(100, steps + 1, 100):
        asked.saved(step)
    assert asked.steps_asked == expected


def test_a_run_without_a_model_has_no_process(tmp_path):
    asked = Asked(tmp_path, 10, 1)
    asked.saved(5)
    assert asked.process is None


# --- the process ---------------------------------------------------------------------------------


def test_the_samples_of_a_training_change_nothing(tmp_path, monkeypatch):
    """All bytes that a training writes are the same, and no process is left."""
    started = []

    class Noted(subprocess.Popen):
        def __init__(self, *args, **options):
            super().__init__(*args, **options)
            started.append(self)

    monkeypatch.setattr(sampler.subprocess, "Popen", Noted)
    options = {**FEW, "steps": 4, "lr": 1e-2}
    for name in ("without", "with"):
        loop = make_trainer(tmp_path / name, random_unet(TINIEST), noise_images(20), **options)
        loop.run.check_new(0)
        if name == "with":
            (tmp_path / name / "progress").mkdir()
            late = tmp_path / name / "progress/samples-000900.png"  # of a run that is done again
            Image.new("L", (8, 8)).save(late)
            loop.watchers = watchers(loop, 1, False)
        loop.train(progress=False)
    files = read_files(tmp_path / "with")
    for path, content in read_files(tmp_path / "without").items():
        assert files.pop(path) == content, path
    assert [process.returncode is not None for process in started] == [True]
    assert "samples-000004.png" in names(tmp_path / "with")
    assert not late.exists()
    assert not any(".tmp" in str(path) for path in files)
    assert "GB" in shown(tmp_path / "with", SAMPLES)["cost"]
    assert shown(tmp_path / "with")["sampler_problem"] == ""


def dead(pid):
    """Return whether a process has ended; its parent may not yet have asked for its exit code."""
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return True


def wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


PARENT = """
import signal, sys, time
from minddpm import backend
from minddpm.commands.watching.sampler import Sampler
from minddpm.training.run_directory import RunDirectory
backend.set_backend("numpy")
sampler = Sampler(RunDirectory(sys.argv[1]), 100, 0, 1)
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored behind a shell's &
with sampler.watching(0):
    sampler.saved(1)
    sampler.idle.wait()
    print(sampler.process.pid, flush=True)
    while True:
        time.sleep(0.1)
"""


@posix
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs Linux")
@pytest.mark.parametrize("end", ["SIGKILL", "SIGINT"])
def test_it_ends_with_its_parent(tmp_path, end):
    saved_model(tmp_path)
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), tmp_path], stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with parent:
        pid = int(parent.stdout.readline())
        running = not dead(pid)
        priority, group = os.getpriority(os.PRIO_PROCESS, pid), os.getpgid(pid)
        parent.send_signal(getattr(signal, end))
    assert running
    assert priority == sampler.LOWEST
    assert group == pid  # a terminal's Ctrl-C does not reach it
    wait_for(lambda: dead(pid))


def test_a_process_that_ends_by_itself_is_reported(tmp_path, monkeypatch):
    words = [sys.executable, "-c", "print('no memory left'); raise SystemExit(3)"]
    monkeypatch.setattr(sampler, "DRAW", words)
    loop = tiny_run(tmp_path / "run", steps=4)
    loop.watchers = watchers(loop, 1, False)
    loop.train(progress=False)
    problem = shown(tmp_path / "run", PROGRESS)["sampler_problem"]
    assert "exit code 3" in problem
    assert "no memory left" in problem
