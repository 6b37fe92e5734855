"""minddpm.gpucheck when a row, or the whole process that runs the rows, goes wrong."""

import errno
import json
import shutil
import sys
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from minddpm.commands import cli
from minddpm.gpucheck import __main__ as command
from minddpm.gpucheck import supervisor
from minddpm.storage import atomic

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
# A worker with few rows and a planted fault.
PLANTED = """
import os, sys, time
import numpy as np
from minddpm.gpucheck import worker
from minddpm.kernels import cuda
every = worker.items
worker.items = lambda *how: [item for item in every(*how) if item.name in {names}]
{fault}
sys.exit(worker.main())
"""
NAMES = "add", "silu", "upsample_nearest"


@pytest.fixture
def gpucheck(monkeypatch, capsys, tmp_path):
    """gpucheck("--quick", ..., fault="...", names=...) -> (exit code, stdout, stderr).

    It runs in tmp_path, and only the rows of these names.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MINDDPM_CUDA", "emulate")

    def run(*arguments, fault="", names=NAMES):
        monkeypatch.setattr(sys, "argv", ["gpucheck", *map(str, arguments)])
        worker = sys.executable, "-c", PLANTED.format(fault=fault, names=names)
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


HANGS = """
ENDLESS = 'extern "C" __global__ void endless() { volatile int on = 1; while (on) {} }'
def silu(x):
    sys.modules["cupy"].RawModule(code=ENDLESS).get_function("endless")((1,), (1,), ())
cuda.silu = silu
"""
CRASHES = "cuda.silu = lambda x: os.kill(os.getpid(), 11)"
# The first process crashes, and after that the device is gone.
GONE = (
    CRASHES
    + """
from minddpm.errors import InputError
def set_backend(name):
    raise InputError("the device is gone")
if "0" not in sys.argv:
    worker.minddpm.set_backend = set_backend
"""
)
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
        (GONE, ["ok", "FAILED the process ended", "FAILED no GPU to check"]),
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


@pytest.mark.parametrize(
    ("fault", "limits", "problem"),
    [
        ("os._exit(7)", (100, 100), "the process ended with exit code 7: without a message"),
        ("raise OSError('no driver')", (100, 100), "exit code 1: OSError: no driver"),
        ("time.sleep(1000)", (100, 1), "no result within 1 s"),
        ("time.sleep(1000)", (1, 100), "no result within 1 s"),
    ],
)
def test_a_process_that_does_not_start(gpucheck, monkeypatch, fault, limits, problem):
    """It dies or hangs before its plan; there are a table and all files."""
    seconds, of_row = limits
    monkeypatch.setattr(command.supervisor.results, "__defaults__", (of_row, supervisor.WORKER))
    early = f"import os, time\n{fault}\n"
    monkeypatch.setattr(sys.modules[__name__], "PLANTED", early + PLANTED)
    code, stdout, stderr = gpucheck("--seconds", seconds, "--report", "page.html")
    assert code == 1
    (line,) = (line for line in stdout.splitlines() if line.startswith("| start of the process"))
    assert problem in line
    assert "\n1 failed. Every number is in gpucheck.json." in stdout
    (row,) = json.loads(Path("gpucheck.json").read_text())["checks"]
    assert problem in row["problem"]
    assert len(Path("gpucheck.jsonl").read_text().splitlines()) == 2
    assert problem in Path("page.html").read_text()
    assert "supervisor.py" not in stderr  # no traceback of the command itself


def test_without_a_row_the_command_fails(gpucheck, monkeypatch):
    plan = {"kind": "plan", "machine": {}, "emulated": True, "rows": [["check", "add"]]}
    rows = [plan, {"kind": "not run", "row": 0, "of": "check", "name": "add"}]
    monkeypatch.setattr(supervisor, "results", lambda *_, **__: iter(rows))
    code, stdout, _ = gpucheck()
    assert (code, "No time was left for 1 of 1 rows" in stdout) == (1, True)


def test_only_the_compilation_may_take_three_quarters_of_the_seconds(monkeypatch):
    rows = [["compile", "all kernels"], ["check", "add"]]
    kinds = "begin", "compile", "state", "begin", "check", "state"
    records = iter([{"kind": "plan", "rows": rows}, *({"kind": kind} for kind in kinds)])
    limits = []

    class Scripted:
        def __init__(self, command):
            pass

        def next(self, seconds):
            limits.append(seconds)
            return next(records, None)

        def end(self):
            return 0

        def last_words(self):
            return ""

    monkeypatch.setattr(supervisor, "Worker", Scripted)
    assert len(list(supervisor.results(1000, 5))) == 5
    assert [round(limit) for limit in limits] == [5, 750, 750, *[5] * 5]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_costs_no_row(capsys):
    with command.Lines(Path("/dev/full")) as lines:
        for name in ("silu", "add"):
            lines.add({"kind": "check", "name": name})
    stdout, stderr = capsys.readouterr()
    assert stdout.count("\n") == 2
    assert stderr == "/dev/full: No space left on device; the rows are printed only.\n"


@needs_compiler
def test_a_disk_that_becomes_full_costs_the_files_but_no_row(gpucheck, monkeypatch):
    """The error of os.fsync is that of a full disk, once a row has run."""

    def fsync(file):
        if Path("full").exists():
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    fault = "right = cuda.silu\ncuda.silu = lambda x: open('full', 'w').close() or right(x)"
    code, stdout, stderr = gpucheck("--report", "page.html", fault=fault)
    assert code == 1
    assert all(f"| {name} |" in stdout for name in NAMES)
    assert "\n0 failed.\n" in stdout
    assert stderr.count("could not be written (No space left on device)") == 2
    assert not Path("gpucheck.json").exists()
    assert not Path("page.html").exists()
    assert [path.name for path in Path().glob("*.json*")] == ["gpucheck.jsonl"]


# A copy of the kernels in which a header is missing, as CUDA's own may be.
NO_HEADER = """
import shutil
from pathlib import Path
from minddpm.kernels.cuda import launch
shutil.copytree(launch.FOLDER, "kernels")
Path("kernels/narrow.cuh").unlink()
launch.FOLDER = Path("kernels").resolve()
"""


@needs_compiler
def test_a_missing_header_costs_the_rows_that_need_it(gpucheck):
    names = "add", "group_norm", "silu"
    code, stdout, _ = gpucheck(fault=NO_HEADER, names=names)
    assert code == 1
    starts = tuple(f"| {name} |" for name in names)
    lines = [line for line in stdout.splitlines() if line.startswith(starts)]
    assert [line.split(" | ")[-1][:6] for line in lines] == ["ok |", "FAILED", "ok |"]
    assert "narrow.cuh" in lines[1]


# --- every kind of row, on the stand-in as if it were a GPU --------------------------------------

AS_A_GPU = """
import minddpm
import numpy as np
from minddpm import backend
from minddpm.data import ImageDataset
from minddpm.gpucheck import checks, digits, kernel_checks, machine, step, step_timings, timings
from minddpm.kernels.cuda import ahead
backend.precisions = lambda: ["float32"]
kernel_checks.run_all = lambda quick: None
ahead.DELAY = 0
machine.is_emulated = lambda: False
minddpm.SMALL, timings.QUICK_BATCH, timings.SECONDS = checks.TINY, 2, 0
timings.wait = lambda cycles: None
digits.DIGITS = digits.DIGITS._replace(model=checks.TINY)
digits.load_mnist = lambda: ImageDataset(checks.strokes(90, 8), np.arange(90) % 10, "strokes")
digits.SAMPLING_STEPS = digits.SYNCHRONISED = 2
digits.SECONDS, step_timings.QUEUED = 2, 1
"""
EVERY_KIND = (
    "all kernels",
    "add",
    "training step, 2 images, cupy, replayed",
    "sampling step, 2 images, cupy, graph",
    "training step by kernel, float32",
    "ceiling, copy in memory",
    "registers and memory of the kernels",
    "a training",
)


@needs_compiler
def test_every_kind_of_row_as_on_a_gpu(gpucheck, tmp_path):
    code, stdout, stderr = gpucheck(
        "--quick", "--report", "page.html", fault=AS_A_GPU, names=EVERY_KIND
    )
    assert code == 0, stdout + stderr
    content = json.loads((tmp_path / "gpucheck.json").read_text())
    (compiled,) = content["compiled"]
    assert compiled["modules"] > 5
    assert compiled["problems"] == []
    assert f"{compiled['modules']} modules of kernels compiled in" in stdout
    assert "compiling CUDA kernels" in stderr
    assert "\r" not in stderr  # a file is read line by line
    training, sampling, copied = content["timings"]
    for row in (training, sampling):
        assert row["milliseconds"] > 0
        assert row["queued"] > 0
        assert row["images_per_second"] == pytest.approx(2e3 / row["milliseconds"])
    assert copied["gigabytes"] > 0
    (step,) = content["steps"]
    assert "% of a measured ceiling" in stdout
    assert " of copy in memory |" in stdout
    (needs,) = content["resources"]
    launched = {kernel["name"] for kernel in step["kernels"]}
    assert launched <= {kernel["name"] for kernel in needs["kernels"]}
    (digits,) = content["digits"]
    assert digits["steps"] > 0
    assert 0 <= digits["sure"] <= 1
    assert digits["picture"] == "gpucheck.png"
    with Image.open("gpucheck.png") as picture:
        assert picture.width > 8
    assert "data:image/png;base64," in (tmp_path / "page.html").read_text()
    assert "| before all kernels | not available: " in stdout
    assert all(row["seconds"] >= 0 for rows in ("checks", "timings") for row in content[rows])


@needs_compiler
@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ("step.breakdown = lambda *_: os.kill(os.getpid(), 9)", "exit code -9"),
        ("step.breakdown = lambda *_: time.sleep(1000)", "no result within 20 s"),
    ],
)
def test_a_fault_between_timings(gpucheck, monkeypatch, fault, verdict):
    """All rows before it and after it have their numbers."""
    monkeypatch.setattr(command.supervisor.results, "__defaults__", (20, supervisor.WORKER))
    names = EVERY_KIND[1], EVERY_KIND[4], EVERY_KIND[5]
    code, stdout, _ = gpucheck("--quick", fault=AS_A_GPU + fault, names=names)
    assert code == 1
    assert "training step by kernel, float32: FAILED" in stdout
    assert verdict in stdout
    content = json.loads(Path("gpucheck.json").read_text())
    assert [row["ok"] for row in content["checks"]] == [True]
    assert all(row["milliseconds"] for row in content["timings"])
    assert len(content["timings"]) == 1


@needs_compiler
def test_a_training_takes_a_part_of_the_seconds_that_are_left(gpucheck):
    fault = """
digits.SECONDS, train = 90, digits._train
digits._train = lambda trainer, seconds: train(trainer, 0)._replace(training_seconds=seconds)
"""
    names = EVERY_KIND[1], EVERY_KIND[-1]
    code, stdout, _ = gpucheck("--quick", "--seconds", 200, fault=AS_A_GPU + fault, names=names)
    assert code == 0, stdout
    (row,) = json.loads(Path("gpucheck.json").read_text())["digits"]
    assert row["steps"] > 2
    assert 0.24 * 100 < row["training_seconds"] < 0.24 * 200  # 0.8 of 0.3 of them
