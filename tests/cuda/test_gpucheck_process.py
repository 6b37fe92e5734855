"""minddpm.gpucheck when a row, or the whole process that runs the rows, goes wrong."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest

from minddpm.commands import cli
from minddpm.gpucheck import __main__ as command
from minddpm.gpucheck import supervisor

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
# A worker with few rows and a planted fault.
PLANTED = """
import os, sys, time
import numpy as np
from minddpm.gpucheck import worker
from minddpm.kernels import cuda
every = worker.items
worker.items = lambda quick, emulated: [
    item for item in every(quick, emulated) if item.name in ("add", "silu", "upsample_nearest")
]
{fault}
sys.exit(worker.main())
"""


@pytest.fixture
def gpucheck(monkeypatch, capsys, tmp_path):
    """gpucheck("--quick", ..., fault="...") -> (exit code, stdout, stderr), run in tmp_path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINDDPM_CUDA", "emulate")

    def run(*arguments, fault=""):
        monkeypatch.setattr(sys, "argv", ["gpucheck", *map(str, arguments)])
        worker = sys.executable, "-c", PLANTED.format(fault=fault)
        return cli.run(partial(command.main, worker)), *capsys.readouterr()

    return run


def test_a_file_that_exists_is_not_overwritten(gpucheck, tmp_path):
    (file := tmp_path / "mine.json").write_text("precious")
    code, _, stderr = gpucheck("--json", file)
    assert code == 2
    assert "choose another name" in stderr
    assert file.read_text() == "precious"


@needs_compiler
def test_the_page_is_written_and_no_file_overwritten(gpucheck, tmp_path):
    file = tmp_path / "page.html"
    code, stdout, _ = gpucheck("--quick", "--report", file)
    assert code == 0
    assert f"wrote {file}" in stdout
    before = file.read_text()
    assert "upsample_nearest" in before
    code, _, stderr = gpucheck("--quick", "--report", file)
    assert code == 2
    assert "choose another name" in stderr
    assert file.read_text() == before


@needs_compiler
def test_a_wrong_kernel_fails_the_command(gpucheck, tmp_path):
    (tmp_path / "gpucheck.json").write_text("precious")
    wrong = """
right = cuda.upsample_nearest
cuda.upsample_nearest = lambda x: right(x) * np.float32(np.nan)
"""
    code, stdout, _ = gpucheck(fault=wrong)
    assert code == 1
    assert "| upsample_nearest | nan | 0e+00 | FAILED |" in stdout
    assert stdout.count("FAILED") == 1
    assert (tmp_path / "gpucheck.json").read_text() == "precious"
    content = json.loads((tmp_path / "gpucheck-2.json").read_text())
    (row,) = (row for row in content["checks"] if not row["ok"])
    assert (row["name"], row["error"]) == ("upsample_nearest", "nan")
    lines = (tmp_path / "gpucheck-2.jsonl").read_text().splitlines()
    kinds = [json.loads(line)["kind"] for line in lines]
    assert kinds == ["plan", "state", "check", "check", "check", "state"]
    assert set(lines[1:]) <= set(stdout.splitlines())


HANGS = "cuda.silu = lambda x: time.sleep(1000)"
CRASHES = "cuda.silu = lambda x: os.kill(os.getpid(), 11)"
# After an access outside an array every call fails, until the process ends.
LOST = """
def silu(x):
    worker.usable = lambda: False
    raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS")
cuda.silu = silu
"""
EVERYTHING_LOST = "worker.usable = lambda: False"


@needs_compiler
@pytest.mark.parametrize(
    ("fault", "verdicts"),
    [
        (HANGS, ["ok", "FAILED no result within 20 s", "ok"]),
        (CRASHES, ["ok", "FAILED the process ended with exit code -11", "ok"]),
        (LOST, ["ok", "FAILED RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS", "ok"]),
        (EVERYTHING_LOST, ["ok", "ok", "ok"]),
    ],
)
def test_a_lost_process_costs_its_own_row(gpucheck, monkeypatch, fault, verdicts):
    monkeypatch.setattr(command.supervisor.results, "__defaults__", (20, supervisor.WORKER))
    code, stdout, _ = gpucheck(fault=fault)
    assert code == (verdicts != ["ok"] * 3)
    for name, verdict in zip(("add", "silu", "upsample_nearest"), verdicts, strict=True):
        (line,) = (line for line in stdout.splitlines() if line.startswith(f"| {name} |"))
        assert line.split("| ")[-1].startswith(verdict)


@needs_compiler
def test_the_time_is_over(gpucheck):
    """The row that hangs and the one after it did not run; neither has failed."""
    code, stdout, _ = gpucheck("--seconds", 20, fault=HANGS)
    assert code == 0
    assert "| add |" in stdout
    assert "No time was left for 2 of 3 rows, from 'silu' on: give more --seconds." in stdout
    assert json.loads(Path("gpucheck.json").read_text())["not run"] == ["silu", "upsample_nearest"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_no_row(capsys):
    with command.Lines(Path("/dev/full")) as lines:
        for name in ("silu", "add"):
            lines.add({"kind": "check", "name": name})
    stdout, stderr = capsys.readouterr()
    assert stdout.count("\n") == 2
    assert stderr == "/dev/full: No space left on device; the rows are printed only.\n"
