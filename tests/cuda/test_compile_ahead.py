"""Compiling the kernels of a computation before it runs."""

import shutil
import time

import numpy as np
import pytest

import minddpm
from minddpm import backend
from minddpm.generate import seconds_per_run
from minddpm.gpucheck import checks
from minddpm.kernels import cuda
from minddpm.kernels.cuda import ahead, launch
from minddpm.kernels.emulator.cupy_on_cpu import RawModule

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    # NumPy computes with what no kernel has written.
    pytest.mark.filterwarnings("ignore:(invalid value|overflow) encountered"),
]


@pytest.fixture
def compiled(emulated_cupy, monkeypatch):
    """The files and options of all modules that are compiled during the test, each time."""
    launch._module.cache_clear()
    launch._kernels.clear()
    calls, right = [], RawModule._library

    def library(module):
        if not module._libraries:
            defines = tuple(o for o in module.options if o.startswith("-D"))
            calls.append((module._path().name, defines))
        return right(module)

    monkeypatch.setattr(RawModule, "_library", library)
    return calls


def small_trainer(precision="float32"):
    return checks.small_trainer("cupy", precision, checks.TINY, 2)


def arrays(trainer):
    """Return all arrays of a checkpoint, on the host."""
    return [backend.to_numpy(x) for group in trainer.state().values() for x in group.values()]


@pytest.mark.parametrize("precision", ["float32", "fp16"])
def test_a_training_step_compiles_what_was_noted_and_nothing_else(compiled, precision):
    trainer = small_trainer(precision)
    compiled.clear()  # the initial weights are drawn by a kernel, too
    launch._module.cache_clear()
    launch._kernels.clear()
    before = backend.to_numpy(trainer.optimizer.flat.data)
    backend.xp.stats.reset()
    done = ahead.compile_ahead(trainer.trial)
    assert backend.xp.stats.raw_launches == 0
    np.testing.assert_array_equal(backend.to_numpy(trainer.optimizer.flat.data), before)
    noted, names = set(compiled), {file for file, _ in compiled}
    assert done == (len(compiled), [])
    assert len(compiled) == len(noted) > 5
    assert {"norm.cu", "random.cu", "attention.cu"} < names
    trainer.train_step()
    assert set(compiled) == noted
    assert len(compiled) == len(noted)
    # It leaves no trace: the step is that of a new trainer.
    other = small_trainer(precision)
    other.train_step()
    for array, expected in zip(arrays(trainer), arrays(other), strict=True):
        np.testing.assert_array_equal(array, expected)


def test_a_file_compiles_while_others_are_still_to_be_noted(compiled, emulated_cupy):
    def run():
        cuda.silu(emulated_cupy.zeros(8, "float32"))
        limit = time.monotonic() + 20
        while not compiled and time.monotonic() < limit:
            time.sleep(0.01)
        begun.extend(compiled)

    begun = []
    assert ahead.compile_ahead(run) == (1, [])
    assert begun == [("pointwise.cu", ())]


def test_a_file_that_does_not_compile_is_named_and_raises_when_it_is_used(compiled, monkeypatch):
    right = RawModule._library

    def library(module):
        if module._path().name == "norm.cu":
            raise RuntimeError('norm.cu(3): error: cannot open source file "each.cuh"\nand more')
        return right(module)

    monkeypatch.setattr(RawModule, "_library", library)
    trainer = small_trainer()
    done = ahead.compile_ahead(trainer.trial)
    assert done.modules > 5
    assert done.problems
    for problem in done.problems:
        assert problem.startswith("norm.cu")
        assert problem.endswith('norm.cu(3): error: cannot open source file "each.cuh"')
    with pytest.raises(RuntimeError, match="cannot open source file"):
        trainer.train_step()


def test_a_replayed_model_is_first_called_after_it(emulated_cupy):
    unet = checks.random_unet(checks.TINY)
    model = minddpm.replayed(unet)
    x, t = emulated_cupy.zeros((2, 8, 8, 1), "float32"), emulated_cupy.zeros(2, "int64")
    ahead.compile_ahead(lambda: model(x, t))
    emulated_cupy.stats.reset()
    model(x, t)
    assert emulated_cupy.stats.graph_launches == 0
    assert emulated_cupy.stats.raw_launches > 5
    with minddpm.no_grad():
        expected = backend.to_numpy(unet(x, t).data)
    for _ in range(2):  # recorded, then launched as a graph
        np.testing.assert_array_equal(backend.to_numpy(model(x, t)), expected)


def test_within_another_call_the_other_one_compiles(compiled, emulated_cupy):
    inner, x = [], emulated_cupy.zeros(8, "float32")
    run = lambda: inner.append(ahead.compile_ahead(lambda: cuda.silu(x)))  # noqa: E731
    assert ahead.compile_ahead(run) == (1, [])
    assert inner == [(0, [])]
    assert compiled == [("pointwise.cu", ())]


def test_commands_that_sample_compile_before_they_time(compiled, monkeypatch):
    """sample, evaluate, inpaint and interpolate time the model first."""
    counts = []

    def compile_ahead(run):
        before = len(compiled)
        counts.extend([ahead.compile_ahead(run).modules, len(compiled) - before])

    monkeypatch.setattr(backend, "compile_ahead", compile_ahead)
    unet = checks.random_unet(checks.TINY)
    compiled.clear()
    seconds_per_run(unet, 2)
    noise = [("random.cu", ())]
    assert counts[0] == counts[1] == len([module for module in compiled if module not in noise]) > 5


def test_only_on_a_gpu(emulated_cupy, monkeypatch):
    calls = []
    monkeypatch.setattr(ahead, "compile_ahead", calls.append)
    backend.compile_ahead("emulated")
    for name in ("numpy", "cupy-reference"):
        minddpm.set_backend(name)
        backend.compile_ahead(name)
    assert calls == []
    minddpm.set_backend("cupy")
    monkeypatch.delenv("MINDDPM_CUDA")
    backend.compile_ahead("a GPU")
    assert calls == ["a GPU"]


def test_the_commands_compile_before_they_time(command, digits, monkeypatch):
    """Before the trials and the model's runs, whose times are printed."""
    calls = []
    monkeypatch.setattr(backend, "compile_ahead", lambda run: calls.append(run()))
    trial = minddpm.Trainer.trial
    monkeypatch.setattr(minddpm.Trainer, "trial", lambda self: calls.append("trial") or trial(self))
    code, _, stderr = command("train_mnist", "--data-dir", digits, "--steps", 1, "--samples", 1,
                              "--sample-steps", 1, "--batch-size", 2)  # fmt: skip
    assert code == 0, stderr
    # within the run that compiles; the result of that run; what the other samples need
    assert calls[:2] == ["trial", None]
    assert len(calls[2]) == 2
    assert calls[3:] == [None, *["trial"] * 3]
