"""The comparison of DDPM, GAN and VAE: trained, judged, gone on with, and told in one page."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from commands import refused, snapshot
from PIL import Image

from minddpm.baselines.vae.training import VAEOptions
from minddpm.data import load_mnist
from minddpm.evaluation.comparison import runs
from minddpm.evaluation.comparison.runs import Plan, grey_pixels
from minddpm.evaluation.comparison.systems import SLIDES, SYSTEMS, Sampler
from minddpm.evaluation.comparison.table import as_markdown, rows, verdict
from minddpm.storage.json_files import read_json, write_json
from minddpm.storage.tensors import read_tensors
from minddpm.training.run_directory import RunDirectory
from refusals import refused as needs

TINY = ["--backend", "numba", "--budget", 0.0001, "--count", 70, "--sampler-steps", 2]
TINY += ["--classification-steps", 1, "--out", "both"]


class Page(HTMLParser):
    """Tags with their attributes, and the text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_from_training_to_the_report(command, digits, tmp_path):
    compare = ["compare_models", "--data-dir", digits, *TINY]
    code, stdout, stderr = command(*compare, "--seeds", 1)
    assert code == 0, stderr
    assert "3 trainings of 0.0001 minutes" in stdout
    out = tmp_path / "both"
    table = (out / "report.md").read_text()
    for label in ("parameters", "FID", "classification score", "recall", "-ELBO (Bernoulli), nats"):
        assert f"| {label} |" in table
    assert table.split("\n\n")[0] in stdout
    with Image.open(out / "samples.png") as picture:
        picture.verify()

    page = Page((out / "report.html").read_text())
    pictures = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(pictures) == 3 + 2 + 3  # grids, the slider's steps, curves
    assert all(src.startswith("data:image/png;base64,") for src in pictures)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(
        r"https?:|src=\"(?!data:)|@import|url\(", (out / "report.html").read_text()
    )
    (slider,) = [a for tag, a in page.tags if tag == "input"]
    assert (slider["min"], slider["max"]) == ("0", "1")
    assert sum("frame" in a.get("class", "") and "hidden" not in a for _, a in page.tags) == 1

    # The same again does nothing twice; a second seed is added beside the first one.
    before = {p: kept for p, kept in snapshot(out).items() if p.parent != out}
    code, _, _ = command(*compare, "--seeds", 2)
    assert code == 0
    after = snapshot(out)
    assert {p: after[p] for p in before if p.name != "loss.png"} == {
        p: kept for p, kept in before.items() if p.name != "loss.png"
    }
    assert (out / "gan-1" / "result.json").is_file()
    assert "±" in (out / "report.md").read_text()
    steps = [RunDirectory(out / f"vae-{seed}").read_info()[0]["steps"] for seed in (0, 1)]
    assert steps[0] == steps[1]
    refused(command(*compare, "--count", 71), "both", "71", "--out")
    begun = (out / "plan.json").read_bytes()
    write_json(out / "plan.json", {**read_json(out / "plan.json"), "cooldown": 0.0})
    refused(command(*compare), "both", "cooldown", "--out")
    (out / "plan.json").write_bytes(begun)

    # The slider ends with the pictures of the grid, whichever steps it shows on the way.
    plan = Plan(out, (0,), 0.0001, 70, Sampler("ddpm", 2))
    seen = runs.frames(plan, 0)
    assert list(seen) == [1, 2]
    drawn = runs.first_pictures(plan, SYSTEMS[0], 0)[:8]
    np.testing.assert_allclose(seen[2], drawn, atol=1.5 / 127.5)
    longer = dataclasses.replace(plan, sampler=Sampler("ddpm", 7))
    assert list(runs.frames(longer, 0, most=3)) == [2, 4, 7]

    # Other digits would be another comparison, and so would a run of other digits.
    other = tmp_path / "other"
    shutil.copytree(digits, other)
    file = other / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    refused(command("compare_models", "--data-dir", other, *TINY), "both", "--out")
    (out / "vae-0" / "training.json").unlink()
    with needs("trained on"):
        runs.train(plan, SYSTEMS[2], 0, load_mnist(other))


def test_what_is_refused(command, digits, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("kept")
    data = ["compare_models", "--data-dir", digits, "--backend", "numpy"]
    refused(command(*data, "--out", "other"), "other", "--out")
    assert (tmp_path / "other" / "mine.txt").read_text() == "kept"
    assert len(list((tmp_path / "other").iterdir())) == 1
    refused(command(*data, "--budget", 0), "--budget")
    refused(command(*data, "--count", 64, "--out", "new"), "64", "65")
    refused(command(*data, "--sampler-steps", 1001, "--out", "new"), "1001", "1000")
    assert not (tmp_path / "new").exists()  # the corrected command finds nothing in its way
    refused(command(*data, "--budget", 1, "--slides"), "--slides")


def test_a_training_goes_on_where_it_stopped(digits, tmp_path, monkeypatch):
    data = load_mnist(digits)
    vae = SYSTEMS[2]
    monkeypatch.setattr(type(vae), "options", lambda self, steps, seed: _small(3, seed))
    whole = Plan(tmp_path / "whole", (0,), None)
    runs.train(whole, vae, 0, data)

    halves = Plan(tmp_path / "halves", (0,), None)
    path = runs.directory(halves, vae, 0)
    loop = vae.loop(data, RunDirectory(path), _small(3, 0))
    loop.run.check_new(0)
    loop.run.write_info(vars(loop.options), data.identity())
    loop.train_step()
    loop.save()
    told = runs.train(halves, vae, 0, data)
    assert told["steps"] == 3
    for name in ("vae.safetensors", "training_state.safetensors"):
        one, other = (runs.directory(p, vae, 0) / name for p in (whole, halves))
        tensors, info = read_tensors(one)
        others, other_info = read_tensors(other)
        assert info == other_info
        assert tensors.keys() == others.keys()
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, others[key])


def test_a_training_that_ended_untold_is_timed_anew(digits, tmp_path, monkeypatch):
    vae, plan, data = SYSTEMS[2], Plan(tmp_path, (0,), None), load_mnist(digits)
    monkeypatch.setattr(type(vae), "options", lambda self, steps, seed: _small(2, seed))
    runs.train(plan, vae, 0, data)
    timing = runs.directory(plan, vae, 0) / "training.json"
    timing.unlink()  # as if killed before it was written
    monkeypatch.setattr(runs, "_seconds", lambda loop, minutes: 6.0)
    again = runs.train(plan, vae, 0, data)
    assert (again["steps"], again["ms_per_step"]) == (2, 6000)
    assert again["minutes"] == pytest.approx(0.2)


@pytest.mark.parametrize("wrong", [{"steps": "many"}, {"lr": None}, {"steps": 0}])
def test_options_of_a_run_that_make_no_sense(digits, tmp_path, wrong):
    vae, plan, data = SYSTEMS[2], Plan(tmp_path, (0,), None), load_mnist(digits)
    run = RunDirectory(runs.directory(plan, vae, 0))
    run.check_new(0)
    run.write_info({**vars(_small(2, 0)), "older": 1, **wrong}, data.identity())
    with needs(next(iter(wrong))):
        runs.train(plan, vae, 0, data)
    # and where another seed asks for this one's number of steps
    with needs(next(iter(wrong))):
        runs.train(dataclasses.replace(plan, minutes=1), vae, 1, data)


def _small(steps, seed):
    return VAEOptions(steps=steps, batch_size=2, seed=seed)


def test_the_slides_budgets():
    steps = {s.name: s.slides_steps for s in SLIDES}
    assert steps == {
        "DDPM": 10_000, "GAN": 16_500, "VAE-10": 5_470, "VAE-30": 16_410, "VAE-70": 38_290
    }  # fmt: skip


def _result(fid, score):
    metrics = {"fid": fid, "classification_score": score}
    metrics = {name: {"value": x, "floor": 0.5, "ceiling": 7} for name, x in metrics.items()}
    for name in ("kid", "inception_score", "precision", "recall", "nearest_training_distance"):
        metrics[name] = {"value": 1.0}
    return {
        "parameters": 1234567, "steps": 10, "batch_size": 2, "ms_per_step": 5.0, "minutes": 1.0,
        "sampling_seconds_per_1000": 1.0, "grey_pixels": {"value": 0.1, "floor": 0.2},
        "metrics": metrics,
    }  # fmt: skip


def test_means_and_spread():
    results = {
        "DDPM": [_result(2.0, 0.9), _result(4.0, 0.8)],
        "VAE": [_result(3.5, 0.7), _result(5.5, 0.7)],
    }
    head, body = rows(results)
    assert head == ["", "DDPM", "VAE", "real digits", "shuffled pixels"]
    cells = {row[0]: row[1:] for row in body}
    assert cells["FID"] == ["3.00 ± 1.41", "4.50 ± 1.41", "0.50", "7.00"]
    assert cells["grey pixels"] == ["0.100", "0.100", "0.200", ""]
    assert cells["parameters"] == ["1,234,567", "1,234,567", "", ""]
    assert cells["ms a step in the slides, on a GPU"] == ["300", "30-50", "", ""]
    assert "active units" not in cells
    assert as_markdown(results).count("\n") == len(body) + 1
    # One DDPM has a worse FID than one VAE; by the score each is ahead of each.
    said = verdict(results)
    assert "By FID the DDPM is ahead of the VAE, on average, not with every seed: " in said
    assert ": 2 .. 4 against 3.5 .. 5.5. By classification" in said
    assert said.endswith("learned from, repeats counted: DDPM 20, VAE 20.")
    assert "By classification score the DDPM is ahead of the VAE, with every seed." in said


@pytest.mark.parametrize(("pixels", "share"), [([0, 255, 50, 205], 0), ([51, 204, 0, 128], 0.75)])
def test_grey_is_neither_paper_nor_ink(pixels, share):
    assert grey_pixels(np.array(pixels, np.uint8)) == share


def test_json_of_a_plan(command, digits, tmp_path):
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "plan.json").write_text(json.dumps({"minutes": 1}))
    compare = ["compare_models", "--data-dir", digits, "--backend", "numpy", "--out", "both"]
    refused(command(*compare), "both", "another --out")
