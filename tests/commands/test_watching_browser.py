"""The page of a run in headless Chromium: what it shows, and that it renews itself."""

import json
import re

import browser
import pytest
from builders import tiny_run
from PIL import Image

from minddpm.commands.watching import watchers
from minddpm.commands.watching.page import INDEX, PROGRESS, SAMPLES, call

pytestmark = browser.needs_chromium
ODD = "a b'\"</script><b>\u2028\udcff\u00e9"


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Return the directory of a run that has ended, with three pictures."""
    monkeypatch.setattr("sys.argv", ["train.py", ODD])
    loop = tiny_run(tmp_path / "a run's #1 <b>", steps=8)
    loop.watchers = watchers(loop, 0, False)
    loop.train(progress=False)
    change(loop.run.path, samples=True)
    for step in (2, 4, 6):
        Image.new("L", (8, 8), 40 * step).save(loop.run.path / f"progress/samples-{step}.png")
    Image.new("L", (8, 24)).save(loop.run.path / "progress/denoising.png")
    samples(loop.run.path, (2, 4, 6))
    return loop.run.path


def change(path, **facts):
    """Change what progress.js says."""
    content = json.loads(re.fullmatch(r"progress\((.*)\);\n", (path / PROGRESS).read_text())[1])
    (path / PROGRESS).write_bytes(call("progress", {**content, **facts}))


def samples(path, steps, then=""):
    """Write samples.js; then: a script that it runs afterwards."""
    content = {
        "pictures": [{"step": step, "file": f"samples-{step}.png"} for step in steps],
        "denoising": {"step": 6, "file": "denoising.png", "t": [49, 20, 0]},
        "cost": "0.2 GB of memory",
    }
    (path / SAMPLES).write_bytes(call("samples", content) + then.encode())


def opened(path, *options, seconds=3):
    """Return the document of a run's page."""
    return browser.opened(path / INDEX, path.parent / "profile", *options, seconds=seconds)


def text(document, name):
    """Return the text of the element with this id, without its tags."""
    body = document.partition("<body>")[2].partition("<script>")[0]
    found = re.search(rf'<(\w+) [^>]*id="{name}"[^>]*>(.*?)</\1>', body, re.S)
    return re.sub(r"<[^>]+>", " ", found[2]).strip()


@pytest.mark.parametrize("width", [1280, 400])
def test_a_run_that_is_done(run, width):
    samples(run, (2, 4, 6), then=browser.FITS)
    document = opened(run, f"--window-size={width},1200")
    assert text(document, "state") == "done"
    assert text(document, "name") == "a run's #1 &lt;b&gt;"
    assert "8 of 8" in text(document, "facts")
    assert "&lt;/script&gt;&lt;b&gt;\u2028?\u00e9" in text(document, "command")
    assert "t in quarter 4" in text(document, "legend")
    assert document.count("<polyline") == 5
    assert "after step 6" in document
    assert "t = 0, by the model of step 6" in document
    assert "0.2 GB of memory" in text(document, "sampler")
    assert "samples-6.png" in re.search(r"background-image: url\((.*?)\)", document)[1]
    assert 'data-fits="true"' in document


def test_a_renewed_page_keeps_the_positions_of_its_sliders(run):
    """The reader has moved a slider; then a picture comes. The other one follows the newest."""
    move = """
        document.querySelector("#by-step input").value = 0;
        document.querySelector("#by-step input").oninput();
        window.turn = (window.turn || 0) + 1;
        if (turn > 1) {
          const later = {pictures: [2, 4, 6, 8].map(step => ({step, file: `samples-${step}.png`})),
            denoising: {step: 8, file: "denoising.png", t: [49, 30, 20, 0]}};
          samples(later);
        }
    """
    Image.new("L", (8, 8)).save(run / "progress/samples-8.png")
    samples(run, (2, 4, 6), then=move)
    document = opened(run, seconds=12)  # it looks every five
    slider = re.search(r'<section id="by-step".*?</section>', document, re.S)[0]
    assert 'max="3"' in slider
    assert "after step 2" in slider
    assert "samples-2.png" in slider
    assert "t = 0, by the model of step 8" in document


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({"state": "running", "updated": 4e9}, "running"),
        ({"state": "running", "updated": 1e9}, "interrupted"),  # nothing since 2001: kill -9
        ({"state": "failed", "problem": "training <i>diverged</i>"}, "failed"),
    ],
)
def test_other_states(run, facts, state):
    change(run, seconds_left=90.0, step=4, **facts)
    document = opened(run)
    assert text(document, "state") == state
    assert ("time left" in text(document, "facts")) == (state == "running")
    if state == "interrupted":
        assert "nothing has been written" in text(document, "problem")
    if state == "failed":
        assert text(document, "problem") == "training &lt;i&gt;diverged&lt;/i&gt;"


def test_one_picture_needs_no_slider(run):
    samples(run, (2,))
    document = opened(run)
    sliders = re.findall(r'<section id="by-(?:step|t)".*?<input ([^>]*)>', document, re.S)
    assert ["hidden" in attributes for attributes in sliders] == [True, False]


def test_a_run_without_samples_and_without_rows(run):
    (run / SAMPLES).write_bytes(call("samples", {"pictures": []}))
    change(run, samples=False, loss={"steps": [], "curves": []})
    document = opened(run)
    assert re.search(r'<div id="samples"[^>]*hidden', document)
    assert "<polyline" not in document
