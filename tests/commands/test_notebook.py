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
    """Return the names that a cell assigns."""
    return {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)} - {"Path"}


@pytest.fixture
def shown(monkeypatch):
    """Collect the names of the files that the cells display."""
    files, display = [], ModuleType("IPython.display")
    display.Image = lambda filename: Path(filename)
    display.display = files.append
    monkeypatch.setitem(sys.modules, "IPython", ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return files


@pytest.fixture
def run_cells(monkeypatch, tmp_path, shown):
    """Return run_cells(**parameters), which runs the code cells with other parameters."""
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


TINY = {  # test_gpucheck.py runs all checks
    "REPOSITORY": "", "CHECKOUT": ROOT, "GPUCHECK": ["--quick", "--seconds", "10"], "STEPS": 2,
    "BATCH": 2, "SAMPLES": 4, "SAMPLE_STEPS": 2,
}  # fmt: skip


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_all_cells_run(run_cells, shown, tmp_path, capsys):
    (images := tmp_path / "images").mkdir()
    for i in range(3):
        Image.new("L", (8, 8), i * 100).save(images / f"{i}.png")
    data = ["--image-folder", images, "--image-size", 8, "--timesteps", 40]
    run_cells(**TINY, DATA=data)
    stdout = capsys.readouterr().out
    assert "minddpm is already installed" in stdout
    assert "0 failed. Every number is in gpucheck.json." in stdout
    assert "backend cupy" in stdout
    assert [file.name for file in shown] == ["samples.png", "denoising.gif", "loss.png"]
    for file in shown:
        with Image.open(file) as image:
            image.verify()


def test_a_command_that_fails_stops_the_notebook(run_cells, shown):
    with pytest.raises(RuntimeError, match=r"minddpm\.gpucheck --wrong failed with exit code 2"):
        run_cells(**{**TINY, "GPUCHECK": ["--wrong"]}, DATA=[])
    assert shown == []


def test_a_missing_checkout_is_cloned_from_the_repository(run_cells, tmp_path):
    missing = {**TINY, "CHECKOUT": tmp_path / "checkout", "DATA": []}
    with pytest.raises(ValueError, match="REPOSITORY is empty"):
        run_cells(**missing)
    with pytest.raises(RuntimeError, match="git clone --depth 1 nowhere"):
        run_cells(**{**missing, "REPOSITORY": "nowhere"})


def test_the_notebook_contains_no_outputs():
    """And a text cell precedes every code cell."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in CODE)
    kinds = [cell["cell_type"] for cell in NOTEBOOK["cells"]]
    assert ("code", "code") not in pairwise(kinds)
    assert sum(map(is_parameters, CODE)) == 1
