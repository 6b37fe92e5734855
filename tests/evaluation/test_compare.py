"""The comparison of DDPM, GAN and VAE: training, judging, resuming, and the report."""

import dataclasses
import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from browser import check_page
from builders import comparison_result
from commands import refused, snapshot
from PIL import Image

from minddpm.baselines.vae.training import VAEOptions
from minddpm.data import load_mnist, to_float
from minddpm.drawing import grid
from minddpm.evaluation.comparison import runs
from minddpm.evaluation.comparison.detail import grey_pixels, lines, measure
from minddpm.evaluation.comparison.runs import Plan
from minddpm.evaluation.comparison.systems import SLIDES, SYSTEMS, Sampler
from minddpm.evaluation.comparison.table import as_markdown, rows, verdict
from minddpm.evaluation.metrics.judge import load_judge
from minddpm.evaluation.report import Reference
from minddpm.storage.json_files import read_json, write_json
from minddpm.storage.tensors import read_tensors
from minddpm.training.run_directory import RunDirectory
from refusals import refused as input_error

TINY = ["--backend", "numba", "--budget", 0.0001, "--count", 70, "--sampler-steps", 2]
TINY += ["--classification-steps", 1, "--out", "both"]


class Page(HTMLParser):
    """The tags of an HTML page with their attributes, and its text."""

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
    with Image.open(out / "detail.png") as image:
        image.verify()
    plan = Plan(out, (0,), 0.0001, 70, Sampler("ddpm", 2))
    real = Reference(load_judge(), load_mnist(digits), load_mnist(digits, "test")).real_images(32)
    batches = [*(runs.first_samples(plan, s, 0)[:32] for s in SYSTEMS), to_float(real)]
    with Image.open(out / "samples.png") as image:
        np.testing.assert_array_equal(image, grid(np.concatenate(batches), 16))

    page = Page((out / "report.html").read_text())
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 4 + 1 + 2 + 3  # grids, detail, the slider's steps, curves
    assert all(src.startswith("data:image/png;base64,") for src in images)
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not re.search(
        r"https?:|src=\"(?!data:)|@import|url\(", (out / "report.html").read_text()
    )
    (slider,) = [a for tag, a in page.tags if tag == "input"]
    assert (slider["min"], slider["max"]) == ("0", "1")
    assert sum("frame" in a.get("class", "") and "hidden" not in a for _, a in page.tags) == 1

    check_page(out / "report.html", tmp_path / "profile")

    # The same command repeats nothing; a second seed is added beside the first one.
    before = {p: content for p, content in snapshot(out).items() if p.parent != out}
    code, _, _ = command(*compare, "--seeds", 2)
    assert code == 0
    after = snapshot(out)
    assert {p: after[p] for p in before if p.name != "loss.png"} == {
        p: content for p, content in before.items() if p.name != "loss.png"
    }
    assert (out / "gan-1" / "result.json").is_file()
    assert "±" in (out / "report.md").read_text()
    steps = [RunDirectory(out / f"vae-{seed}").read_info()[0]["steps"] for seed in (0, 1)]
    assert steps[0] == steps[1]
    refused(command(*compare, "--count", 71), "both", "71", "--out")
    original = (out / "plan.json").read_bytes()
    write_json(out / "plan.json", {**read_json(out / "plan.json"), "cooldown": 0.0})
    refused(command(*compare), "both", "cooldown", "--out")
    (out / "plan.json").write_bytes(original)

    # The slider ends with the samples of the grid, whichever steps it shows before.
    frames = runs.frames(plan, 0)
    assert list(frames) == [1, 2]
    samples = runs.first_samples(plan, SYSTEMS[0], 0)[:8]
    np.testing.assert_allclose(frames[2], samples, atol=1.5 / 127.5)
    longer = dataclasses.replace(plan, sampler=Sampler("ddpm", 7))
    assert list(runs.frames(longer, 0, most=3)) == [2, 4, 7]

    # Other digits are refused, by the comparison and by each run.
    other = tmp_path / "other"
    shutil.copytree(digits, other)
    file = other / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1] + b"\0")
    refused(command("compare_models", "--data-dir", other, *TINY), "both", "--out")
    (out / "vae-0" / "training.json").unlink()
    with input_error("trained on"):
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


def test_a_training_resumes_where_it_stopped(digits, tmp_path, monkeypatch):
    data = load_mnist(digits)
    vae = SYSTEMS[2]
    monkeypatch.setattr(type(vae), "options", lambda self, steps, seed: _small(3, seed))
    reference = Plan(tmp_path / "reference", (0,), None)
    runs.train(reference, vae, 0, data)

    parts = Plan(tmp_path / "parts", (0,), None)
    path = runs.directory(parts, vae, 0)
    loop = vae.loop(data, RunDirectory(path), _small(3, 0))
    loop.run.check_new(0)
    loop.run.write_info(vars(loop.options), data.identity())
    loop.train_step()
    loop.save()
    summary = runs.train(parts, vae, 0, data)
    assert summary["steps"] == 3
    for name in ("vae.safetensors", "training_state.safetensors"):
        one, other = (runs.directory(p, vae, 0) / name for p in (reference, parts))
        tensors, info = read_tensors(one)
        others, other_info = read_tensors(other)
        assert info == other_info
        assert tensors.keys() == others.keys()
        for key, tensor in tensors.items():
            np.testing.assert_array_equal(tensor, others[key])


def test_a_finished_training_without_its_summary_is_timed_again(digits, tmp_path, monkeypatch):
    vae, plan, data = SYSTEMS[2], Plan(tmp_path, (0,), None), load_mnist(digits)
    monkeypatch.setattr(type(vae), "options", lambda self, steps, seed: _small(2, seed))
    runs.train(plan, vae, 0, data)
    timing = runs.directory(plan, vae, 0) / "training.json"
    timing.unlink()  # as after a kill just before it was written
    monkeypatch.setattr(runs, "_seconds", lambda loop, minutes: 6.0)
    again = runs.train(plan, vae, 0, data)
    assert (again["steps"], again["ms_per_step"]) == (2, 6000)
    assert again["minutes"] == pytest.approx(0.2)


@pytest.mark.parametrize("wrong", [{"steps": "many"}, {"lr": None}, {"steps": 0}])
def test_wrong_options_of_a_run_are_refused(digits, tmp_path, wrong):
    vae, plan, data = SYSTEMS[2], Plan(tmp_path, (0,), None), load_mnist(digits)
    run = RunDirectory(runs.directory(plan, vae, 0))
    run.check_new(0)
    run.write_info({**vars(_small(2, 0)), "older": 1, **wrong}, data.identity())
    with input_error(next(iter(wrong))):
        runs.train(plan, vae, 0, data)
    # Also if another seed reads this one's number of steps.
    with input_error(next(iter(wrong))):
        runs.train(dataclasses.replace(plan, minutes=1), vae, 1, data)


def _small(steps, seed):
    return VAEOptions(steps=steps, batch_size=2, seed=seed)


def test_the_slides_budgets():
    steps = {s.name: s.slides_steps for s in SLIDES}
    assert steps == {
        "DDPM": 10_000, "GAN": 16_500, "VAE-10": 5_470, "VAE-30": 16_410, "VAE-70": 38_290
    }  # fmt: skip


def test_means_and_spread():
    results = {
        "DDPM": [comparison_result(2.0, 0.9), comparison_result(4.0, 0.8)],
        "VAE": [comparison_result(3.5, 0.7), comparison_result(5.5, 0.7)],
    }
    head, body = rows(results)
    assert head == ["", "DDPM", "VAE", "real digits", "shuffled pixels"]
    cells = {row[0]: row[1:] for row in body}
    assert cells["FID"] == ["3.00 ± 1.41", "4.50 ± 1.41", "0.50", "7.00"]
    assert cells["grey pixels"] == ["0.100", "0.100", "0.200", ""]
    assert cells["power of details below 4 pixels"] == ["0.0010", "0.0010", "0.0020", ""]
    assert cells["parameters"] == ["1,234,567", "1,234,567", "", ""]
    assert cells["ms a step in the lecture slides"] == ["300", "30-50", "", ""]
    assert "active units" not in cells
    assert as_markdown(results).count("\n") == len(body) + 1
    # By FID one DDPM is worse than one VAE; by the score every DDPM is better than every VAE.
    text = verdict(results)
    assert "By FID the DDPM is ahead of the VAE, on average, not with every seed: " in text
    assert ": 2 .. 4 against 3.5 .. 5.5. By classification" in text
    assert text.endswith("Training images, repetitions included: DDPM 20, VAE 20.")
    assert "By classification score the DDPM is ahead of the VAE, with every seed." in text


@pytest.mark.parametrize(("pixels", "share"), [([0, 255, 50, 205], 0), ([51, 204, 0, 128], 0.75)])
def test_grey_is_neither_black_nor_white(pixels, share):
    assert grey_pixels(np.array(pixels, np.uint8)) == share


def test_detail_of_blurred_samples():
    """Two seeds are averaged; a blur removes fine detail and makes pixels grey."""
    rng = np.random.default_rng(0)
    real = 255 * rng.integers(0, 2, (200, 8, 8, 1), dtype=np.uint8)
    blurred = ((real.astype(int) + np.roll(real, 1, axis=1)) // 2).astype(np.uint8)
    sharp, soft = measure(real, real), measure(blurred, real)
    assert soft["grey_pixels"]["value"] == pytest.approx(0.5, abs=0.05)
    assert soft["fine_power"]["value"] < 0.6 * soft["fine_power"]["floor"]
    series = lines({"VAE": [soft, sharp], "GAN": [sharp, sharp]})
    vae, gan, digits = series
    assert (vae[:4], gan, digits) == ("VAE,", "GAN, 0.0% grey", "real digits, 0.0% grey")
    assert vae == f"VAE, {soft['grey_pixels']['value'] / 2:.1%} grey"
    expected = (np.add(soft["spectrum"]["value"], sharp["spectrum"]["value"])) / 2
    np.testing.assert_allclose(series[vae], [[1 / 8, 2 / 8, 3 / 8, 4 / 8], expected])
    assert series[gan] == series[digits]


def test_a_plan_with_other_options_is_refused(command, digits, tmp_path):
    (tmp_path / "both").mkdir()
    (tmp_path / "both" / "plan.json").write_text(json.dumps({"minutes": 1}))
    compare = ["compare_models", "--data-dir", digits, "--backend", "numpy", "--out", "both"]
    refused(command(*compare), "both", "another --out")


def test_a_comparison_does_not_write_through_a_link(command, digits, tmp_path):
    (tmp_path / "both").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "both" / "plan.json").write_text("{}")
    (tmp_path / "both" / "ddpm-0").symlink_to(tmp_path / "mine")
    compare = ["compare_models", "--data-dir", digits, "--backend", "numpy", "--out", "both"]
    refused(command(*compare), "ddpm-0", "symbolic link")
    assert list((tmp_path / "mine").iterdir()) == []


@pytest.mark.parametrize("text", ["", "{}", '{"steps": "many", "batch_size": 1}', "[1]"])
@pytest.mark.parametrize("name", ["training.json", "result.json"])
def test_a_damaged_result_is_named(digits, tmp_path, name, text):
    vae, plan = SYSTEMS[2], Plan(tmp_path, (0,), None)
    path = runs.directory(plan, vae, 0)
    path.mkdir()
    (path / name).write_text(text)
    with input_error(path / name):
        if name == "training.json":
            runs.train(plan, vae, 0, load_mnist(digits))
        else:
            runs.judge(plan, vae, 0, {}, None)
