"""The page of a run: what it says while the run trains, how it ended, and that it does no harm."""

import json
import math
import os
import re
import shlex
import signal
import sys

import numpy as np
import pytest
from builders import make_vae_loop, read_files, tiny_run
from commands import NUMPY

from minddpm.commands.watching import curves as curves_module
from minddpm.commands.watching import page as page_module
from minddpm.commands.watching import watchers
from minddpm.commands.watching.curves import curves
from minddpm.commands.watching.page import INDEX, PROGRESS, SAMPLES
from minddpm.errors import InputError
from minddpm.training.run_directory import LOSS_COLUMNS
from minddpm.training.watcher import Watcher


@pytest.fixture(autouse=True)
def _every_row_is_shown(monkeypatch):
    monkeypatch.setattr(page_module, "SECONDS", 0.0)


def watched(path, **options):
    """Return a tiny training with a page, without samples."""
    loop = tiny_run(path, **options)
    loop.watchers = watchers(loop, 0, False)
    return loop


def shown(path, file=PROGRESS):
    """Return what a script of the page says."""
    function, text = re.fullmatch(r"(\w+)\((.*)\);\n", (path / file).read_text("utf-8")).groups()
    assert file == f"progress/{function}.js"
    return json.loads(text)


class Notes(Watcher):
    """Notes what a training tells, and stops it at a step, as Ctrl-C or an error would."""

    def __init__(self, path, stop=None, error=KeyboardInterrupt):
        self.path, self.stop, self.error, self.states = path, stop, error, []

    def row(self, row):
        self.states.append(shown(self.path))
        if row["step"] == self.stop:
            raise self.error("stopped by the test")


# --- what a loop tells ---------------------------------------------------------------------------


def test_the_loop_tells_each_row_and_each_saved_model(tmp_path):
    class Told(Watcher):
        def __init__(self):
            self.rows, self.steps = [], []

        def row(self, row):
            self.rows.append(row)

        def saved(self, step):
            assert (tmp_path / "run/model_index.json").exists()
            self.steps.append(step)

    loop = tiny_run(tmp_path / "run", steps=7)
    loop.watchers = [told := Told()]
    loop.train(progress=False)
    assert [row["step"] for row in told.rows] == [2, 3, 4, 6, 7]
    assert tuple(told.rows[0]) == LOSS_COLUMNS
    assert told.steps == [3, 6, 7]


# --- the page ------------------------------------------------------------------------------------


def test_a_run_and_its_page(tmp_path):
    loop = watched(tmp_path / "run", steps=8)
    notes = Notes(tmp_path / "run")
    loop.watchers.append(notes)
    loop.train(progress=False)
    assert [state["state"] for state in notes.states] == ["running"] * 5
    assert [state["step"] for state in notes.states] == [2, 3, 4, 6, 8]
    assert notes.states[0]["seconds_left"] > notes.states[3]["seconds_left"] > 0
    end = shown(tmp_path / "run")
    assert (end["state"], end["step"], end["steps"]) == ("done", 8, 8)
    assert end["images_per_second"] > 0
    assert end["loss"]["steps"] == [2, 3, 4, 6, 8]
    assert [curve["name"] for curve in end["loss"]["curves"]] == [
        "all t", "t in quarter 1", "t in quarter 2", "t in quarter 3", "t in quarter 4",
    ]  # fmt: skip
    assert end["data"]["images"] == 20
    assert shown(tmp_path / "run", SAMPLES) == {"pictures": []}
    assert "</html>" in (tmp_path / "run" / INDEX).read_text()


def test_the_page_changes_no_result(tmp_path):
    tiny_run(tmp_path / "without", steps=6).train(progress=False)
    watched(tmp_path / "with", steps=6).train(progress=False)
    with_page = read_files(tmp_path / "with")
    for name, content in read_files(tmp_path / "without").items():
        assert with_page.pop(name) == content, name
    assert {str(name) for name in with_page} == {INDEX, PROGRESS, SAMPLES}


def test_an_interrupted_run_that_goes_on(tmp_path):
    loop = watched(tmp_path / "run", steps=8)
    loop.watchers.append(Notes(tmp_path / "run", stop=4))
    with pytest.raises(KeyboardInterrupt):
        loop.train(progress=False)
    assert (shown(tmp_path / "run")["state"], shown(tmp_path / "run")["step"]) == ("interrupted", 4)
    del loop
    again = watched(tmp_path / "run", steps=8)
    assert again.resume() == 3
    again.watchers.append(notes := Notes(tmp_path / "run"))
    again.train(progress=False)
    assert notes.states[0]["loss"]["steps"] == [2, 3, 4]  # those before it was interrupted, too
    assert shown(tmp_path / "run")["state"] == "done"


def test_ctrl_c_is_not_done(tmp_path):
    """A loop that Ctrl-C stops ends without an exception."""
    loop = watched(tmp_path / "run", steps=8)

    class Stops(Watcher):
        def row(self, row):
            if row["step"] == 4:
                os.kill(os.getpid(), signal.SIGINT)

    loop.watchers.append(Stops())
    loop.train(progress=False)  # one more step: all ranks agreed to it before this row
    assert (shown(tmp_path / "run")["state"], shown(tmp_path / "run")["step"]) == ("interrupted", 5)


def test_a_failed_run_says_why(tmp_path):
    loop = watched(tmp_path / "run", steps=8)
    loop.watchers.append(Notes(tmp_path / "run", stop=4, error=InputError))
    with pytest.raises(InputError):
        loop.train(progress=False)
    end = shown(tmp_path / "run")
    assert (end["state"], end["problem"]) == ("failed", "stopped by the test")


def test_a_page_that_cannot_be_written_stops_nothing(tmp_path, monkeypatch):
    def full(path):
        raise InputError("the disk is full.")

    monkeypatch.setattr(page_module, "atomic_write", full)
    assert watched(tmp_path / "run", steps=4).train(progress=False)
    assert not (tmp_path / "run" / INDEX).exists()


def test_the_page_is_not_written_more_often_than_it_should(tmp_path, monkeypatch):
    monkeypatch.setattr(page_module, "SECONDS", 1000.0)
    loop = watched(tmp_path / "run", steps=8)
    loop.watchers.append(notes := Notes(tmp_path / "run"))
    loop.train(progress=False)
    assert {state["step"] for state in notes.states} == {0}
    assert shown(tmp_path / "run")["step"] == 8


def test_odd_names_in_the_command(tmp_path, monkeypatch):
    words = ["train.py", "--data", "a b'\"</script>\u2028\udcff\u00e9\\"]
    monkeypatch.setattr(sys, "argv", words)
    watched(tmp_path / "run", steps=2).train(progress=False)
    command = shown(tmp_path / "run")["command"]
    assert shlex.split(command) == [sys.executable, *words[:2], words[2].replace("\udcff", "?")]


def test_a_vae_has_a_page_without_samples(command, digits, tmp_path):
    run = ["--data-dir", digits, *NUMPY, "--out", tmp_path / "run", "--batch-size", 4]
    assert command("train_vae", *run, "--steps", 2)[0] == 0
    end = shown(tmp_path / "run")
    assert (end["state"], end["samples"]) == ("done", False)
    assert [c["name"] for c in end["loss"]["curves"]] == ["loss", "reconstruction", "kl"]
    assert end["options"]["latent"] == 16


def test_only_a_ddpm_has_samples(tmp_path):
    assert len(watchers(make_vae_loop(tmp_path / "vae"), None, False)) == 1
    assert len(watchers(tiny_run(tmp_path / "run", steps=2), None, False)) == 2


def test_a_negative_number_of_steps_is_refused(command, digits):
    code, _, stderr = command("train_mnist", "--data-dir", digits, "--sample-every", "-1")
    assert code == 2
    assert "below 0" in stderr


# --- its curves ----------------------------------------------------------------------------------


def test_long_curves_have_few_points_of_the_same_shape():
    steps = np.arange(10, 20_010, 10)
    rows = np.stack([steps, 1000 / steps, np.full(len(steps), np.nan), steps * 0.0], axis=1)
    rows[::7, 1] = 50.0  # outliers that a median leaves out
    found = curves(("step", "loss", "loss_q1", "lr"), rows.tolist())
    assert len(found["steps"]) <= curves_module.POINTS
    loss, empty = found["curves"]
    assert found["steps"][-1] > 19_900
    expected = 1000 / (np.array(found["steps"]) - 30)
    np.testing.assert_allclose(loss["values"][3:], expected[3:], rtol=0.2)
    assert all(math.isnan(value) for value in empty["values"])
    assert loss["colour"] != empty["colour"]


@pytest.mark.parametrize("rows", [2, 5, 8, 20])
def test_a_short_curve_falls_as_its_loss_does(rows):
    found = curves(("step", "loss"), [(10 * i, 1 / i) for i in range(1, rows + 1)])
    (loss,) = found["curves"]
    assert loss["values"] == sorted(loss["values"], reverse=True)
    assert loss["values"][0] > 1.4 * loss["values"][-1]


def test_no_rows():
    assert curves(("step", "loss"), [])["steps"] == []


def test_temporary_files_are_gone(tmp_path):
    watched(tmp_path / "run", steps=4).train(progress=False)
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if ".tmp" in name]
