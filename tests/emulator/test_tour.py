"""The tour's chapters on kernels: what the emulator counts and reports, and the figures."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from cuda_checks import needs_compiler

import counts
import figures_kernels

FOLDER = Path(__file__).parents[2] / "docs" / "tour"
pytestmark = pytest.mark.usefixtures("emulated_cupy")


@needs_compiler
def test_what_the_emulator_says_is_current():
    """If this fails: python docs/tour/counts.py --write, then python docs/tour.py --write."""
    documents = counts.documents()
    assert [path.name.split("-")[0] for path in documents] == ["07", "07b", "08"]
    for path in documents:
        assert counts.refreshed(path.read_text())[1] == []


@needs_compiler
def test_what_is_stale_is_reported_and_refreshed(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["counts.py", *arguments])
        return counts.main(), capsys.readouterr().out

    document = tmp_path / "a.md"
    text = (FOLDER / "08-debugging-cuda-on-a-laptop.md").read_text()
    block = counts.code(text, "sums.cu")
    document.write_text(
        f"```cuda\n{block}```\n<!-- counted: wrong argument -->\n<!-- /counted -->\n"
    )
    monkeypatch.setattr(counts, "FOLDER", tmp_path)
    assert run() == (1, "a.md: wrong argument\n")
    assert run("--write") == (0, "a.md: wrong argument (refreshed)\n")
    assert "argument 2 of sums is int64" in document.read_text()
    assert run() == (0, "")


@needs_compiler
def test_the_pages_of_chapter_7_are_made_as_written(tmp_path):
    text = (FOLDER / "07-fast-on-a-gpu.md").read_text()
    (tmp_path / "kernels").symlink_to(FOLDER.parents[1] / "kernels")
    (tmp_path / "strides.cu").write_text(counts.code(text, "strides.cu"))
    commands = "".join(re.findall(r"^```sh\n(.*?)^```$", text, re.S | re.M))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(
        ["sh", "-euc", commands], cwd=tmp_path, env={**os.environ, "PATH": path}, check=True
    )
    pages = {page.stem: page.read_text() for page in tmp_path.glob("*.html")}
    assert set(pages) == {"conv1_naive", "conv2_coalesced", "strides"}
    ladder = (FOLDER / "07b-winograd-and-tensor-cores.md").read_text()
    for rung, page in (("1 naive", "conv1_naive"), ("2 coalesced", "conv2_coalesced")):
        row = re.search(rf"^\| {rung} \|(.*)\|$", ladder, re.M)[0]
        _, _, read, written, _ = row.split("|")[1:-1]
        assert f"{read.strip()} bytes read, {written.strip()} written" in pages[page]
    # The costliest drawing of each page, as the chapter describes it.
    for page, most in (
        ("conv1_naive", "32 sectors of 32 bytes"),
        ("conv2_coalesced", "4 sectors of 32 bytes"),
        ("strides", "32 passes over the banks"),
    ):
        assert most in pages[page]
    assert "32 sectors" not in pages["conv2_coalesced"]


@needs_compiler
def test_the_program_of_chapter_8_prints_what_it_says(tmp_path):
    text = (FOLDER / "08-debugging-cuda-on-a-laptop.md").read_text()
    (tmp_path / "sums.cu").write_text(counts.code(text, "sums.cu"))
    (program,) = re.findall(r"^```python\n(.*?)^```$", text, re.S | re.M)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert f"prints `{done.stdout.strip()}`" in text


def test_every_count_is_shown():
    shown = {
        name for path in counts.documents() for name, _ in counts.MARKER.findall(path.read_text())
    }
    assert shown <= set(counts.COUNTED)
    assert set(counts.COUNTED) - shown == {"6 tensor cores"}  # only a row of the ladder


def test_the_figures_are_those_that_their_script_draws(tmp_path, monkeypatch):
    """If this fails: python docs/tour/figures_kernels.py."""
    monkeypatch.setattr(sys, "argv", ["figures_kernels.py", "--out", str(tmp_path)])
    runpy.run_path(str(FOLDER / "figures_kernels.py"), run_name="__main__")
    drawn = sorted(tmp_path.glob("*.svg"))
    assert len(drawn) == 8
    for path in drawn:
        assert path.read_text() == (FOLDER / path.name).read_text(), path.name


def test_the_figure_of_a_winograd_tile_shows_a_convolution():
    *_, y = figures_kernels.winograd_numbers()
    windows = [[figures_kernels.TILE[i : i + 3, j : j + 3] for j in range(2)] for i in range(2)]
    sums = [[(window * figures_kernels.WINDOW).sum() for window in row] for row in windows]
    assert y.tolist() == sums
