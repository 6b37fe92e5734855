"""minddpm.gpucheck, run without a GPU: its findings, its messages, its files."""

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from contextlib import nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import minddpm
from minddpm import backend
from minddpm.gpucheck import (
    ceilings,
    checks,
    kernel_checks,
    machine,
    resources,
    rung_timings,
    step,
    step_timings,
    tables,
    timings,
    worker,
)
from minddpm.gpucheck.arrays import largest_error
from minddpm.gpucheck.cases import every_case
from minddpm.kernels import cuda, reference
from minddpm.kernels.cuda import column, ladder, launch, replay, shortcut
from minddpm.replay import ReplayedStep

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
FUNCTIONS = set(reference.__all__) - {"constant_weights", "is_recording", "replayed_step"}


def process(folder, **environment):
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, "-m", "minddpm.gpucheck", "--quick", "--seconds", "3000"],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip


def test_every_function_has_a_case():
    assert {case.function for case in every_case(quick=True)} == FUNCTIONS
    assert {case.function for case in every_case(quick=False)} == FUNCTIONS


@needs_compiler
def test_the_command(tmp_path):
    done = process(tmp_path, MINDDPM_CUDA="emulate")
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "gpucheck.json").read_text())
    names = {row["name"] for row in content["checks"]}
    rungs = {f"conv2d, rung {name}" for name in ladder.RUNGS} | set(kernel_checks.WINOGRADS)
    models = {f"losses of 3 training steps, cupy, {name}" for name in backend.PRECISIONS}
    models |= {
        "losses of 3 training steps, cupy-reference, float32",
        "4 sampling steps, graph against eager", "weights after 3 training steps, twice",
        "weights after 3 training steps, replayed and eager",
    }  # fmt: skip
    assert names == FUNCTIONS | rungs | models
    assert all(row["ok"] for row in content["checks"])
    assert all(f"| {name} |" in done.stdout for name in names)
    assert content["emulated"] is True
    assert content["timings"] == []
    assert "GFLOP/s" not in done.stdout
    assert "emulator on the CPU" in done.stdout


def test_without_a_gpu(tmp_path):
    done = process(tmp_path, MINDDPM_CUDA="", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "MINDDPM_CUDA is not emulate" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_order_of_the_rows(emulated_cupy, monkeypatch):
    """A short time cuts off what comes last: compute-sanitizer, and what PyTorch compiles."""
    monkeypatch.setattr(step_timings, "pytorch_problem", lambda *_: "")
    rows = worker.items(worker.Settings(True, 0.0, Path("gpucheck.png")), emulated=False)
    groups = [
        (kind, [row.name for row in some])
        for kind, some in itertools.groupby(rows, key=lambda row: row.kind)
    ]
    first = ["compile", "check", "timing", "step", "timing", "resources", "digits"]
    assert [kind for kind, _ in groups] == [*first, "timing", "sanitizer", "timing"]
    (_, rungs), _, (_, last) = groups[-3:]
    assert all(name.startswith("conv ") for name in rungs)
    assert all(name.endswith(", compiled") for name in last)


def test_the_machine_and_its_state(emulated_cupy, monkeypatch, tmp_path):
    """Both ask nvidia-smi, which may be missing, fail, or print another number of values."""
    monkeypatch.setattr(machine, "is_emulated", lambda: False)
    monkeypatch.setattr(machine, "_pytorch", lambda: "2.11")
    monkeypatch.setattr(machine.metadata, "version", {"diffusers": "0.35.1"}.get)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.description()["driver"].startswith("not available: [Errno 2]")
    tool = tmp_path / "nvidia-smi"

    def says(*lines):
        tool.write_text("\n".join(("#!/bin/sh", *lines, "")))
        tool.chmod(0o755)
        return machine.description()["driver"], machine.state()["clocks"]

    driver, clocks = says(
        'case "$1" in', "--query-gpu=driver_version) echo 580.65.06; echo 580.65.06 ;;",
        "*) echo 1590 MHz, 5000 MHz, 61, 68.1 W ;;", "esac",
    )  # fmt: skip
    assert (driver, clocks) == ("580.65.06", "1590 MHz, memory 5000 MHz, 61 C, 68.1 W")
    assert (
        says("echo NVIDIA-SMI has failed; exit 9") == ("not available: NVIDIA-SMI has failed",) * 2
    )
    assert says("echo 1, 2") == ("not available: 1, 2",) * 2
    assert machine.description()["diffusers"] == "0.35.1"
    monkeypatch.undo()
    assert machine._installed("no-such-package") == "not installed"


# --- planted faults ------------------------------------------------------------------------------


def test_a_graph_that_cannot_be_recorded_shows_why(emulated_cupy):
    """end_capture fails as well, and must not hide the first error."""
    calls = []

    def function(x):
        calls.append(x)
        if len(calls) > 1:
            raise RuntimeError("the first error")
        return x + 0

    x = emulated_cupy.zeros(3, "float32")
    recorded = replay.replayed(function)
    recorded(x)

    end = recorded._device.stream.end_capture

    def end_capture():
        end()
        raise RuntimeError("the second error")

    recorded._device.stream.end_capture = end_capture
    with pytest.raises(RuntimeError, match="the first error"):
        recorded(x)


def scaled(by):
    return lambda x: x * np.float32(by)


def launch_failure(x):
    raise RuntimeError("CUDA_ERROR_ILLEGAL_ADDRESS\nand more")


@needs_compiler
@pytest.mark.parametrize(
    ("wrong", "error", "note"),
    [
        (scaled(1.001), 1e-3, ""),
        (scaled(np.nan), np.nan, ""),
        (lambda x: x[:-1], np.inf, ""),
        (launch_failure, np.inf, "RuntimeError: CUDA_ERROR_ILLEGAL_ADDRESS"),
    ],
)
def test_a_wrong_result_fails_its_row(emulated_cupy, monkeypatch, wrong, error, note):
    right = cuda.silu
    monkeypatch.setattr(cuda, "silu", lambda x: wrong(right(x)))
    (case,) = [
        c for c in every_case(quick=True) if c.function == "silu" and c.arguments[0].size > 1
    ]
    comparison = kernel_checks.Comparison(
        case.tolerance,
        partial(kernel_checks._result, case),
        partial(kernel_checks._expected, case),
    )
    row = kernel_checks._check("silu", [comparison])
    assert not row.ok
    assert row.note == note
    np.testing.assert_allclose(row.error, error, rtol=1e-2)


def test_a_function_is_reported_by_its_worst_case():
    rows = [checks.Row("", error, 1e-5) for error in (1e-6, np.nan, 9e-6)]
    for some in itertools.permutations(rows):
        assert np.isnan(kernel_checks._worst(some).error)
    assert kernel_checks._worst([rows[0], rows[2]]) is rows[2]
    exact, loose = checks.Row("", 1e-9, 0.0), checks.Row("", 1e-3, 1.0)
    assert kernel_checks._worst([loose, exact]) is exact


def check(name):
    """Return the check of this name, at small sizes."""
    return next(c for c in kernel_checks.kernel_checks(quick=True) if c.name == name)


@needs_compiler
@pytest.mark.parametrize("name", kernel_checks.WINOGRADS)
def test_wrong_gradients_of_winograd_fail(emulated_cupy, monkeypatch, name):
    module = kernel_checks.WINOGRADS[name]
    right = module.backward
    assert check(name)().ok

    def wrong(*arguments):
        gradients = right(*arguments)
        return gradients._replace(shift=gradients.shift * np.float32(1.001))

    monkeypatch.setattr(module, "backward", wrong)
    assert not check(name)().ok


@needs_compiler
def test_wrong_gradients_of_a_rung_fail(emulated_cupy, monkeypatch):
    right = ladder.separate_gradients

    def wrong(*arguments):
        gxs, gw = right(*arguments)
        return gxs, gw * np.float32(1.001)

    assert check("conv2d, rung 3 shared tile")().ok
    monkeypatch.setattr(ladder, "separate_gradients", wrong)
    assert not check("conv2d, rung 3 shared tile")().ok


@needs_compiler
@pytest.mark.parametrize("name", ["conv2d_backward", "linear_backward", "linears_backward"])
def test_a_fault_of_slices_fails_at_the_quick_sizes(emulated_cupy, monkeypatch, name):
    """The gradient of w is cut into slices only for many pixels or rows, as in real models."""
    right = ladder.weight_slices

    def fails(*arguments):
        slices, parts = right(*arguments)
        if slices > 1:
            raise RuntimeError("in slices")
        return slices, parts

    monkeypatch.setattr(ladder, "weight_slices", fails)
    # The package has a function of this name.
    monkeypatch.setattr(import_module("minddpm.kernels.cuda.linear"), "weight_slices", fails)
    assert check(name)().note == "RuntimeError: in slices"


@needs_compiler
def test_the_kernels_of_one_channel_are_checked_in_slices(emulated_cupy, monkeypatch):
    grids = []

    def launched(file, name, grid, *rest, **options):
        grids.append((name, grid))
        launch.launch(file, name, grid, *rest, **options)

    monkeypatch.setattr(column, "launch", launched)
    assert check("conv2d_backward")().ok
    assert max(slices for name, (slices, *_) in grids if name == "gradient_w_column") > 1


@needs_compiler
@pytest.mark.parametrize("name", ["convolved", "gradients"])
def test_a_wrong_shortcut_of_a_rung_fails(emulated_cupy, monkeypatch, name):
    """The channels of each part of x are in the other order."""
    right, place = getattr(shortcut, name), {"convolved": 4, "gradients": 3}[name]

    def wrong(*arguments):
        xs = tuple(x[..., ::-1].copy() for x in arguments[place])
        return right(*arguments[:place], xs, *arguments[place + 1 :])

    rung = "conv2d, rung 6 tensor cores, half"
    assert check(rung)().ok
    monkeypatch.setattr(shortcut, name, wrong)
    assert not check(rung)().ok


@needs_compiler
@pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered")  # nothing is computed
def test_all_that_the_checks_launch_is_noted(emulated_cupy):
    """So that it is compiled before them."""
    with launch.noted() as modules:
        kernel_checks.run_all(quick=True)
    files = {file for file, _ in modules}
    peaks = {"peak.cu", "peak_tensor.cu"}
    assert files == {file.name for file in cuda.files()} - peaks
    options = {options for file, options in modules if file == "conv4_registers.cu"}
    assert {(), ("-DCOLUMNS=32", "-DUP=1"), ("-DTILE=64", "-DSTRIDE=2")} < options


@needs_compiler
def test_a_wrong_optimiser_fails_the_training_check(emulated_cupy, monkeypatch):
    right = cuda.adam
    assert checks.training_check("cupy", "float32", quick=True).ok
    assert backend.active().name == "cupy"

    def wrong(param, grad, m, v, average, step, lr, *numbers):
        right(param, grad, m, v, average, step, 1.02 * lr, *numbers)

    monkeypatch.setattr(cuda, "adam", wrong)
    assert not checks.training_check("cupy", "float32", quick=True).ok


@needs_compiler
def test_a_training_that_differs_from_run_to_run_fails(emulated_cupy, monkeypatch):
    assert checks.repeat_check(False, quick=True).ok
    right, scales = cuda.silu, itertools.count(1)
    monkeypatch.setattr(cuda, "silu", lambda x: right(x) * np.float32(1 + 1e-6 * next(scales)))
    assert not checks.repeat_check(False, quick=True).ok


@needs_compiler
def test_a_replayed_step_that_differs_from_an_eager_one_fails(emulated_cupy, monkeypatch):
    assert checks.repeat_check(True, quick=True).ok
    right = ReplayedStep.__call__

    def wrong(self, function, step, *inputs):
        return right(self, function, 0, *inputs)  # the noise of the first step

    monkeypatch.setattr(ReplayedStep, "__call__", wrong)
    assert not checks.repeat_check(True, quick=True).ok
    monkeypatch.setattr(ReplayedStep, "__call__", lambda self, f, *inputs: f(*inputs))
    assert "the step was not replayed" in checks.repeat_check(True, quick=True).note


@needs_compiler
def test_a_graph_that_keeps_its_first_inputs_fails(emulated_cupy, monkeypatch):
    """x and t are not copied at each call."""
    assert checks.graph_check(quick=True).error == 0
    monkeypatch.setattr(replay._Call, "copy_in", lambda self, inputs: None)
    row = checks.graph_check(quick=True)
    assert 0.01 < row.error < np.inf


def test_largest_error():
    ones = np.ones(3)
    assert largest_error((ones, None, (2 * ones,)), (ones, (2 * ones, None))) == 0
    assert largest_error(ones, 2 * ones) == 0.5
    assert largest_error((ones, ones), ones) == np.inf
    assert largest_error(ones, np.ones((3, 1))) == np.inf
    assert np.isnan(largest_error((ones, np.nan * ones, 5 * ones), (ones, ones, ones)))


# --- timings -------------------------------------------------------------------------------------


def test_calls_are_timed_between_two_events(monkeypatch):
    """Three calls first, then some on an idle device; in every round a wait before all calls."""
    log, waits, elapsed = [], [], iter([50.0, 10.0, 20.0])

    class Event:
        def record(self):
            log.append("record")

        def synchronize(self):
            log.append("synchronize")

    device = SimpleNamespace(synchronize=lambda: log.append("idle"))
    fake = SimpleNamespace(
        RawKernel=lambda code, name: lambda *launch: log.append("wait") or waits.append(launch),
        cuda=SimpleNamespace(
            Event=Event, Device=lambda: device, get_elapsed_time=lambda start, end: next(elapsed)
        ),
    )
    monkeypatch.setattr(timings, "backend", SimpleNamespace(xp=fake))
    clock = itertools.count(step=0.5)
    monkeypatch.setattr(timings.time, "perf_counter", lambda: next(clock))

    def run():
        log.append("run")

    assert timings.launching_time(run, rounds=3) == 500.0
    assert log == ["run"] * 3 + ["idle", "run"] * 3
    log.clear()
    assert timings.device_time(run, 3, 2, 500.0) == 10.0
    assert log == ["idle", "wait", "record", "run", "run", "record", "synchronize"] * 3
    # The device waits for longer than the host takes to launch both calls.
    assert waits == [((1,), (1,), (1.5 * timings.CLOCK * 0.5 * 2,))] * 3
    log.clear()
    elapsed = iter([7.0])
    assert timings.device_time(run, 1, 1, 500.0) == 7.0
    assert "wait" not in log
    # A slow task has fewer rounds, at least three.
    elapsed = itertools.repeat(1.0)
    log.clear()
    timings.device_time(run, 100, 1, 500.0)
    assert log.count("run") == 3 + timings.SECONDS / 0.5 - 1
    monkeypatch.setattr(timings, "SECONDS", 0.0)
    log.clear()
    timings.device_time(run, 100, 1, 500.0)
    assert log.count("run") == 3


@pytest.fixture
def small_sizes(monkeypatch):
    monkeypatch.setattr(minddpm, "SMALL", checks.TINY)
    monkeypatch.setattr(timings, "QUICK_BATCH", 2)
    monkeypatch.setattr(timings, "wait", lambda cycles: None)  # the stand-in has no clock
    for expected in (
        checks.reference_losses,
        step_timings._trusted,
        step_timings._expected_samples,
    ):
        expected.cache_clear()


@needs_compiler
def test_all_results_are_verified_before_they_are_timed(emulated_cupy, monkeypatch, small_sizes):
    """The clock is replaced: the contestants compute the right results on the stand-in."""
    runs = []
    monkeypatch.setattr(timings, "launching_time", lambda *_: 1.0)
    monkeypatch.setattr(timings, "device_time", lambda run, *_: runs.append(run()) or 2.0)
    monkeypatch.setattr(rung_timings, "CONVOLUTIONS", {"7x7 12->8": (7, 12, 8)})
    # PyTorch has no stand-in.
    monkeypatch.setattr(rung_timings, "pytorch_problem", lambda: "torch is not installed")

    def make(tasks):
        return [task() for task in tasks]

    steps = [*step_timings.training(quick=True), *step_timings.sampling_steps(quick=True)]
    rungs = rung_timings.tasks(quick=True)
    times = make([*steps, *rungs])
    assert [t.problem for t in times if t.problem] == []
    missing = [t for t in times if t.missing]
    assert {t.who for t in missing} == set(rung_timings.THEIRS)
    assert len(steps) == 6 + 3
    assert len(rungs) == 2 * (len(ladder.RUNGS) + 6)
    queued = [t for t in times if t.queued]
    assert {t.who for t in times if t.images} - {t.who for t in queued} == {"cupy-reference"}
    assert len(runs) == len(rungs) - len(missing) + len(steps) + len(queued)
    training = times[0]
    assert (training.milliseconds, training.queued, training.images_per_second) == (2, 2, 1000)
    assert training.memory > 0
    flops = 2 * 2 * 49 * 9 * 12 * 8
    assert times[-4].gflops == 2 * flops / 2e-3 / 1e9
    assert {t.flops for t in times} == {flops, 2 * flops, None}

    monkeypatch.setattr(cuda, "sampler_step_normal", lambda x, *_: (x, x))
    right = ladder.forward
    monkeypatch.setattr(
        ladder, "forward", lambda s, xs, w, *rest, **more: right(s, xs, 2 * w, *rest, **more)
    )
    runs.clear()
    wrong = [(t.what, t.who) for t in make([*steps, *rungs]) if t.problem]
    assert wrong == [
        *(
            ("training step, 2 images", f"cupy, {how}")
            for how in ("replayed", "eager", "fp16, replayed", "bf16, replayed", "tf32, replayed")
        ),
        *(("sampling step, 2 images", f"cupy, {how}") for how in ("graph", "eager")),
        *(("conv 7x7 12->8, 2 images", f"rung {name}") for name in ladder.RUNGS),
        ("conv 7x7 12->8, 2 images", "chosen (cupy)"),
    ]


@needs_compiler
def test_numpy_is_trusted_if_plain_cupy_is_wrong(emulated_cupy, monkeypatch, small_sizes):
    assert step_timings._trusted(True) == "cupy-reference"
    step_timings._trusted.cache_clear()
    right = checks.small_trainer

    def wrong(name, *how):
        trainer = right(name, *how)
        if name == "cupy-reference":
            trainer.optimizer.flat.data[...] *= 1.01
        return trainer

    monkeypatch.setattr(checks, "small_trainer", wrong)
    assert step_timings._trusted(True) == "numpy"


def test_without_pytorch_its_rows_say_so(monkeypatch, emulated_cupy, small_sizes):
    missing = "torch is not installed"
    monkeypatch.setattr(step_timings, "pytorch_problem", lambda *_: missing)
    (task,) = step_timings.pytorch("sampling", ("eager", "graph"), quick=True)
    timing = task()
    assert (timing.who, timing.missing, timing.problem) == ("PyTorch", missing, "")
    assert step_timings.pytorch("sampling", ("compiled",), quick=True) == []
    assert worker._timing(task)["ok"] is None


def test_pytorch_is_timed_in_the_precisions_of_the_gpu(monkeypatch, emulated_cupy):
    monkeypatch.setattr(step_timings, "pytorch_problem", lambda *_: "")

    def found():
        tasks = step_timings.pytorch("training", ("eager", "graph"), quick=True)
        return len(tasks), {task.who.split(", ")[1] for task in tasks}

    assert found() == (12, {"FP32", "TF32", "bf16"})
    monkeypatch.setattr(step_timings.backend, "precisions", lambda: ["float32", "fp16"])
    assert found() == (4, {"FP32"})


# --- compute-sanitizer ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "summary", "ran", "ok"),
    [
        (0, "========= ERROR SUMMARY: 0 errors", "ran 3 of 4 checks, 3 right", True),
        (0, "========= Warning: a counter is not supported", "ran 3 of 4 checks, 3 right", True),
        (77, "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)",
         "ran 3 of 4 checks, 3 right", False),
        (77, "========= ERROR SUMMARY: 1 error", "", False),  # the error has ended the process
        (1, "========= ERROR SUMMARY: 0 errors", "ran 3 of 4 checks, 2 right", False),
        (1, "= Warning: a counter is not supported", "ran 3 of 4 checks, 2 right", False),
        (1, "========= Internal Sanitizer Error", "ran 3 of 4 checks, 0 right", None),
        (1, "= Error: Device not supported\n= ERROR SUMMARY: 0 errors", "ran 3 of 4 checks", None),
        (1, "========= Error: no device", "", None),
        (0, "========= Error: no process was found", "", None),
    ],
)  # fmt: skip
def test_the_verdict_of_compute_sanitizer(monkeypatch, tmp_path, code, summary, ran, ok):
    tool = tmp_path / "compute-sanitizer"
    lines = "echo ========= $2", f"echo '{summary}'", f"echo '{ran}'", f"exit {code}"
    tool.write_text("\n".join(("#!/bin/sh", *lines, "")))
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    verdict = machine.sanitized("racecheck")
    said = summary.splitlines()[0].strip("= ")
    assert verdict == ("racecheck", ok, said + f", {ran}" * bool(ran))
    shown = tables.sanitizer([{"kind": "sanitizer", "name": "racecheck", **verdict._asdict()}])
    assert {True: ": ok (", False: ": FAILED (", None: ": did not run ("}[ok] in shown
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert machine.sanitized("racecheck").ok is None


@needs_compiler
def test_compute_sanitizer_runs_every_kernel_without_the_pool(emulated_cupy, monkeypatch, capsys):
    pools = []
    monkeypatch.setattr(emulated_cupy.cuda, "set_allocator", pools.append, raising=False)
    emulated_cupy.stats.reset()
    limit = f"+ {machine.SANITIZED}"
    with pytest.raises(SystemExit, match="False"):
        exec(machine.SHORT_CHECK.replace(limit, "+ 3000"), {})
    assert pools == [None]
    assert emulated_cupy.stats.launches > 200
    count = len(kernel_checks.kernel_checks(quick=True))
    assert capsys.readouterr().out == f"ran {count} of {count} checks, {count} right\n"


@needs_compiler
def test_compute_sanitizer_says_nothing_of_kernels_that_were_not_launched(
    emulated_cupy, monkeypatch, capsys
):
    def fails(*_):
        raise RuntimeError("no launch")

    monkeypatch.setattr(emulated_cupy.cuda, "set_allocator", print, raising=False)
    monkeypatch.setattr(launch, "_kernel", fails)
    with pytest.raises(SystemExit, match="True"):
        exec(machine.SHORT_CHECK, {})
    assert int(capsys.readouterr().out.split()[-2]) < 5  # those that launch nothing


# --- a step by kernel, and the card's ceilings ---------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_step_is_taken_apart(emulated_cupy, monkeypatch, small_sizes, precision):
    """Its launches are those of an eager step, each between two events; the longest comes first."""
    found = step.breakdown("training", precision, quick=True)
    assert found.problem == ""
    trainer = checks.small_trainer("cupy", precision, checks.TINY, 2, replay=False)
    trainer.train_step()
    launched = Counter()

    def observe(file, name, arguments):
        launched.update([f"{file[:-3]}: {name}"])
        return nullcontext()

    with launch.observed_by(observe):
        trainer.train_step()
    assert {kernel.name: kernel.launches for kernel in found.kernels} == launched
    assert found.launches == launched.total() > 20
    times = [kernel.microseconds for kernel in found.kernels]
    assert times == sorted(times, reverse=True)
    adam = next(kernel for kernel in found.kernels if kernel.name == "pointwise: adam")
    # param, grad, m, v and average; and the scale
    assert adam.bytes == 5 * trainer.optimizer.flat.data.nbytes + 4

    def fails(*_, **__):
        raise RuntimeError("out of memory\nand more")

    monkeypatch.setattr(step, "small_trainer", fails)
    failed = step.breakdown("training", precision, quick=True)
    assert failed.problem == "RuntimeError: out of memory"
    row = {"kind": "step", "name": "by kernel", **failed._asdict()}
    assert tables._step(row, {}) == "by kernel: FAILED RuntimeError: out of memory"


@needs_compiler
def test_a_sampling_step_is_taken_apart(emulated_cupy, small_sizes):
    found = step.breakdown("sampling", "float32", quick=True)
    launches = {kernel.name: kernel.launches for kernel in found.kernels}
    assert found.problem == ""
    assert launches["random: sampler_step_normal"] == 1
    assert not [name for name in launches if "gradient" in name]


@needs_compiler
def test_the_work_of_a_convolution(emulated_cupy):
    x, w = (
        emulated_cupy.zeros((2, 20, 20, 8), "float32"),  # enough tiles: their depth is not cut
        emulated_cupy.zeros((3, 3, 8, 4), "float32"),
    )
    b = emulated_cupy.zeros(4, "float32")
    counted = {}

    def observe(file, name, arguments):
        counted[name] = step.work(file, name, arguments)
        return nullcontext()

    with launch.observed_by(observe):
        y = cuda.conv2d(x, w, b, 1, ((1, 1), (1, 1)))
        flops = 2 * 2 * 20 * 20 * 9 * 8 * 4
        arrays = x, w, b, y, launch.counters(1)
        assert counted.pop("conv2d") == (flops, sum(array.nbytes for array in arrays))
        cuda.conv2d_backward(y, x, w, 1, ((1, 1), (1, 1)))
        assert counted["conv2d_gradients"][0] == 2 * flops
        cuda.conv2d_backward(y, x, w, 1, ((1, 1), (1, 1)), False)
        assert counted["conv2d_gradients"][0] == flops
        norm, layer = emulated_cupy.zeros(8, "float32"), emulated_cupy.zeros((8, 4), "float32")
        arguments = (x,), norm, norm
        _, saved = cuda.norm_silu_conv2d(*arguments, 2, 1.0, w, b, None, ((x,), layer, b))
        flops += 2 * 2 * 20 * 20 * 8 * 4
        assert counted["conv2d_shortcut"][0] == flops
        cuda.norm_silu_conv2d_backward(y, *arguments, saved, 2, w, (), ((x,), layer, ()))
        assert counted["conv2d_shortcut_gradients"][0] == 2 * flops
        cuda.add(x, x)
        assert counted["add"] == (0, 2 * x.nbytes)  # x once


@needs_compiler
def test_resources_of_the_kernels(emulated_cupy, monkeypatch):
    launch._kernels.clear()
    x = emulated_cupy.zeros(8, "float32")
    cuda.silu(x)
    (row,) = resources.resources()
    expected = resources.table()["pointwise: silu", 80]
    assert row == ("pointwise: silu", "", None, None, None, expected)  # an emulator has none
    (kernel,) = launch._kernels.values()
    for name, value in (("num_regs", 28), ("local_size_bytes", 0), ("shared_size_bytes", 64)):
        monkeypatch.setattr(type(kernel), name, value, raising=False)
    assert resources.resources()[0][2:5] == (28, 0, 64)


def test_the_table_of_resources(monkeypatch, tmp_path):
    """Every kernel that its README lists; none where only the package is installed."""
    table = resources.table()
    names = {name for name, _ in table}
    assert {name.partition(":")[0] for name in names} == {file.stem for file in cuda.files()}
    registers, stack = table["conv4_registers: conv2d", 75]
    assert 100 < registers < 256
    assert stack == 0
    monkeypatch.setattr(resources, "FOLDER", tmp_path)
    assert resources.table.__wrapped__() == {}


@needs_compiler
def test_ceilings_are_verified_and_counted(emulated_cupy, monkeypatch):
    monkeypatch.setattr(timings, "launching_time", lambda *_: 1.0)
    monkeypatch.setattr(timings, "device_time", lambda run, *_: run() is None or 2.0)
    monkeypatch.setattr(ceilings, "BLOCKS", 1)
    properties = {"multiProcessorCount": 1}
    monkeypatch.setattr(
        backend.xp.cuda.runtime, "getDeviceProperties", lambda _: properties, raising=False
    )
    monkeypatch.setattr(ceilings, "QUICK", 1024)
    fma, copied, tensor = ceilings.tasks(quick=True)
    assert (fma.flops, tensor.flops) == (2 * 16 * 256 * 4, 2 * 4096 * 4 * 4 * 4)
    assert copied.bytes == 2 * 4 * 2**16
    assert [task.prepare and task().problem for task in (fma, tensor)] == ["", ""]
    assert fma().gflops == fma.flops / 2e-3 / 1e9
    monkeypatch.setattr(ceilings.peak, "multiply_add", lambda *_: backend.xp.ones(3, "float32"))
    wrong = ceilings.tasks(quick=True)[0]()
    assert wrong.milliseconds is None
    assert wrong.problem
