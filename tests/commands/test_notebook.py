"""The notebook for a GPU: its cells in their order, at a tiny size, on the emulator."""

import ast
import json
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
NOTEBOOK = json.loads((ROOT / "examples" / "minddpm_on_gpu.ipynb").read_text())
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def is_parameters(cell):
    return "parameters" in cell["metadata"].get("tags", ())


def assigned(text):
    """The names that a cell gives values to."""
    return {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)} - {"Path"}


@pytest.fixture
def shown(monkeypatch):
    """What the cells display: names of files."""
    files, display = [], ModuleType("IPython.display")
    display.Image = lambda filename: Path(filename)
    display.display = files.append
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return files


@pytest.fixture
def run_cells(monkeypatch, tmp_path, shown):
    """run_cells(**parameters): every code cell in one namespace, these in place of its own."""
    monkeypatch.chdir(tmp_path)
    for name, value in (("MINDDPM_CUDA", "emulate"), ("OPENBLAS_NUM_THREADS", "1")):
        monkeypatch.setenv(name, value)

    def run(**parameters):
        namespace = {"Path": Path}
        for cell in CODE:
            if is_parameters(cell):
                assert assigned(source(cell)) == set(parameters)
                namespace |= parameters
            else:
                exec(compile(source(cell), "cell", "exec"), namespace)

    return run


TINY = {
    "REPOSITORY": "", "CHECKOUT": ROOT, "GPUCHECK": ["--quick"], "STEPS": 2, "BATCH": 2,
    "SAMPLES": 4, "SAMPLE_STEPS": 2,
}  # fmt: skip


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_cells(run_cells, shown, tmp_path, capsys):
    (pictures := tmp_path / "pictures").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), i * 100).save(pictures / f"{i}.png")
    data = ["--image-folder", pictures, "--image-size", 8, "--timesteps", 40]
    run_cells(**TINY, DATA=data)
    said = capsys.readouterr().out
    assert "minddpm is installed already" in said
    assert "0 failed. Every number is in gpucheck.json." in said
    assert "backend cupy" in said
    assert [file.name for file in shown] == ["samples.png", "denoising.gif", "loss.png"]
    for file in shown:
        with Image.open(file) as image:
            image.verify()


def test_a_command_that_fails_stops_the_notebook(run_cells, shown):
    with pytest.raises(RuntimeError, match=r"minddpm\.gpucheck --wrong failed with exit code 2"):
        run_cells(**{**TINY, "GPUCHECK": ["--wrong"]}, DATA=[])
    assert shown == []


def test_where_the_checkout_comes_from(run_cells, tmp_path):
    missing = {**TINY, "CHECKOUT": tmp_path / "checkout", "DATA": []}
    with pytest.raises(ValueError, match="fill in REPOSITORY"):
        run_cells(**missing)
    with pytest.raises(RuntimeError, match="git clone --depth 1 nowhere"):
        run_cells(**{**missing, "REPOSITORY": "nowhere"})


def test_it_claims_nothing():
    """No results of runs are kept in it, and every cell of code has a word before it."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)
    kinds = [cell["cell_type"] for cell in NOTEBOOK["cells"]]
    assert ("code", "code") not in pairwise(kinds)
    assert sum(map(is_parameters, CODE)) == 1
