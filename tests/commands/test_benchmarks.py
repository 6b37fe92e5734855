"""The benchmarks: a wrong result is never timed, and tables are written between their markers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from summary import QUIET, compare, noise, quiet_line, summary

import cases
import contestants
import unets
from busy_table import beside
from measure import WrongResultError, interleave, ratio, verify
from minddpm.errors import InputError
from minddpm.gpucheck import checks
from minddpm.gpucheck.arrays import mapped
from minddpm.kernels import reference
from minddpm.kernels.cpu.cores import usable_cores
from tables import markdown, replace, write

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
TEXT = "before\n<!-- benchmark:unet -->\nold\n<!-- /benchmark -->\nafter\n"


@pytest.mark.parametrize("wrong", [[1, 2, np.nan], [1, 2, 3.1], [1, 2], [1, 2, np.inf]])
def test_a_wrong_result_is_refused(wrong):
    right = np.array([1.0, 2.0, 3.0])
    verify((right, (right,)), (right, right))
    with pytest.raises(WrongResultError):
        verify((right, (np.array(wrong, float),)), (right, right))


GPU_CASES = {
    "conv": lambda: cases.convolution(2, 7, 4, 8),
    "conv transposed": lambda: cases.transposed_convolution(2, 3, 4, 8),
    "linear": lambda: cases.linear(6, 4, 8),
    "norm": lambda: cases.norm_silu(2, 5, 8), "half block": lambda: cases.half_block(2, 5, 8, 8),
    "silu": lambda: cases.silu(100), "attention": lambda: cases.attention(1, 9, 8, 2),
    "upsample": lambda: cases.upsample(1, 3, 4),
    "noising": lambda: cases.noising(2), "sampler step": lambda: cases.sampler_step(2),
    "adam": lambda: cases.adam(100), "ema": lambda: cases.ema(100),
}  # fmt: skip


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("backend", ["cupy", "cupy-reference"])
def test_on_a_gpu_every_call_synchronises(emulated_cupy, backend):
    """On the stand-in, which counts synchronisations."""
    for name, backward in cases.directions(GPU_CASES):
        case = GPU_CASES[name]()
        run = contestants.ours(case, backward, backend, contestants.expected(case, backward))
        emulated_cupy.stats.reset()
        run()
        stats = emulated_cupy.stats
        if (backend, name) == ("cupy-reference", "adam"):  # reads its factor on the host
            assert (stats.synchronisations, stats.to_device) == (2, 0)
        else:
            assert (stats.synchronisations, stats.to_device) == (1, 0), name


def test_a_gpu_is_timed_by_its_own_clock(emulated_cupy, monkeypatch):
    monkeypatch.setattr(contestants, "GPU", ("cupy",))
    assert contestants.clock("numba") == []
    (mark,) = contestants.clock("cupy")
    timer = mark.kwargs["timer"]
    passed = iter((3.0, 2000.0))
    emulated_cupy.stats.reset()
    monkeypatch.setattr(emulated_cupy.cuda, "get_elapsed_time", lambda a, b: next(passed))
    assert [timer() for _ in range(3)] == [0.0, 0.003, 2.003]
    assert emulated_cupy.stats.synchronisations == 3


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("task", unets.TASKS)
def test_the_unet_on_a_gpu(emulated_cupy, task):
    p = unets.problem(checks.TINY, 2)
    wanted = unets.expected(task, p)
    run = unets.build("cupy", task, p, wanted)
    emulated_cupy.stats.reset()
    run()
    assert emulated_cupy.stats.synchronisations > 0
    wrong = wanted._replace(values=mapped(lambda value: 1.1 * value, wanted.values))
    with pytest.raises(WrongResultError, match="off by"):
        unets.build("cupy", task, p, wrong)


@pytest.mark.parametrize("task", unets.TASKS)
def test_a_contestant_runs_on_its_own_backend(task, monkeypatch):
    """Also after another contestant has been built, which activates NumPy."""
    p = unets.problem(checks.TINY, 2)
    wanted = unets.expected(task, p)
    run = unets.build("numba", task, p, wanted)
    unets.build("numpy", task, p, wanted)
    # Of the two kernel sets only NumPy's calls this one.
    monkeypatch.setattr(reference, "linear", None)
    run()


def test_the_emulator_is_not_a_contestant():
    """The emulator does not count as a GPU."""
    code = "import contestants; print(contestants.GPU)"
    environment = {**os.environ, "MINDDPM_CUDA": "emulate", "PYTHONPATH": str(BENCHMARKS)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "()\n", done.stderr


def test_contestants_take_turns():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    seconds = interleave(contestants, rounds=3, shortest=0)
    assert [len(s) for s in seconds.values()] == [3, 3]
    assert calls[-6:] == ["a", "b"] * 3
    assert ratio({"slow": [2, 9, 4], "fast": [1, 3, 4]}, "slow", "fast") == 2


def test_a_table_is_written_between_its_markers():
    table = markdown(["what", "ms"], [["forward", "1.0"]])
    assert table == "| what | ms |\n| --- | ---: |\n| forward | 1.0 |"
    new = replace(TEXT, "unet", table)
    assert new == TEXT.replace("old", table)
    assert replace(new, "unet", "old") == TEXT


@pytest.mark.parametrize("text", ["", TEXT.replace("unet", "other"), TEXT + TEXT])
def test_markers_that_do_not_occur_once_are_refused(text, tmp_path):
    (path := tmp_path / "README.md").write_text(text)
    with pytest.raises(InputError, match=r"markers of table 'unet' occur [02] times"):
        write(path, {"unet": "new"})
    assert path.read_text() == text


# --- summary -------------------------------------------------------------------------------------

MEDIANS = {
    "conv": {"numba": 2e-3, "PyTorch": 5e-3, "numpy": 4e-3},
    "norm": {"numba": 2e-3, "PyTorch": 1e-3, "numpy": 9e-3},
    "ladder": {"1 loops": 8e-3, "chosen": 1e-3},
    "on a GPU": {"cupy": 1e-3, "numba": 0.5e-3, "cupy-reference": 1.5e-3},
    "alone": {"numba": 1e-3},
    "without ours": {"numpy": 1e-3, "PyTorch": 1e-3},
}


def test_the_summary_shows_the_worst_first_against_the_best_other():
    rows = compare(MEDIANS)
    assert [row.name for row in rows] == ["norm", "on a GPU", "conv", "ladder"]
    assert [row.other_name for row in rows] == ["PyTorch", "cupy-reference", "numpy", "1 loops"]
    assert [row.ratio for row in rows] == pytest.approx([0.5, 1.5, 2, 8])
    text = summary(rows)
    assert "| norm | 2 | 1 | PyTorch | 0.50 |" in text
    assert text.endswith(
        "4 operations, 4 shown; ratio: best other / ours, median 1.75; in 1 another is faster."
    )


def test_only_the_worst_rows_are_shown():
    rows = compare({f"{i:02}": {"numba": 1.0, "PyTorch": 1.0 + i} for i in range(40)})
    text = summary(rows)
    assert "| 24 |" in text
    assert "| 25 |" not in text
    assert "40 operations, 25 shown" in text


def test_a_busy_machine_is_noticed():
    """Two processes for each core take about two thirds of it."""
    with beside(2 * usable_cores()):
        share = noise(times=2000)
    assert share > QUIET
    assert quiet_line(share).startswith("WARNING: the machine is not quiet")
    assert "quiet: other programs take 3%" in quiet_line(0.03)
