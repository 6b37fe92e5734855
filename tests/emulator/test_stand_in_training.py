"""Training, sampling and the commands of examples/ on the stand-in for CuPy."""

import gc
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import stepping
from cuda_checks import needs_compiler
from emulated import trainer
from PIL import Image
from stepping import eager

import minddpm
from minddpm import backend
from minddpm.commands import cli
from minddpm.gpucheck import checks
from minddpm.kernels.cuda.replay import replayed

EXAMPLES = Path(__file__).parents[2] / "examples"
TRAIN = ["--steps", 3, "--batch-size", 2, "--timesteps", 40, "--sample-steps", 2, "--samples", 4]


def test_training_has_the_losses_of_numpy(xp, tmp_path):
    losses = {}
    for name in ("numpy", "cupy"):
        model = trainer(name, tmp_path)
        records = [model.train_step() for _ in range(3)]
        losses[name] = np.array([backend.to_numpy(record.losses) for record in records])
    assert isinstance(model.optimizer.flat.data, xp.ndarray)
    np.testing.assert_allclose(losses["cupy"], losses["numpy"], rtol=0, atol=1e-4)
    xp.stats.reset()
    model.train_step()
    # A training step does not synchronise, not even for its batch; a row of the log does once.
    assert (xp.stats.synchronisations, xp.stats.to_host, xp.stats.pageable_to_device) == (0, 0, 0)
    assert xp.stats.to_device > 0
    row = model.row([model.train_step() for _ in range(3)])
    assert np.isfinite(row["grad_norm"])
    assert (xp.stats.synchronisations, xp.stats.to_host) == (1, 1)


@needs_compiler
def test_a_sampling_step_is_one_graph(xp):
    """From the third step on: in the first the model runs eagerly, in the second it is recorded."""
    unet = checks.random_unet(checks.TINY)
    steps, counts = {}, {}
    for replay in (False, True):
        steps_taken = checks.sampling(unet, 2, 5, replay)
        next(steps_taken), next(steps_taken)
        xp.stats.reset()
        steps[replay] = [next(steps_taken).x.tolist() for _ in range(3)]
        assert xp.stats.to_host == 3  # the three tolist
        assert xp.stats.to_device == 0
        counts[replay] = xp.stats.launches, xp.stats.raw_launches, xp.stats.graph_launches
    assert steps[True] == steps[False]
    # In each step: t, the graph, and the update. x, t and the output are copied without one.
    assert counts[True] == (3 * 3, 3, 3)
    assert counts[False][1] > 3 * 40


@needs_compiler
def test_a_recording_has_a_memory_pool_of_its_own(xp):
    pool, used = xp.get_default_memory_pool(), []
    x = xp.ones(1024, "float32")  # a multiple of the pool's unit
    gc.collect()  # of other tests' arrays
    before = pool.used_bytes()

    def function(x):
        y = backend.kernels.silu(x)
        used.append(pool.used_bytes())
        return y

    repeated = replayed(function)
    results, memory = [], []
    for _ in range(3):
        results.append(repeated(x).tolist())
        memory.append(repeated._device.pool.total_bytes())
    # The function ran once and was recorded once; the default pool has only the copy of its input.
    assert used == [before + repeated._call.inputs[0].nbytes] * 2
    assert memory == [x.nbytes] * 3  # a recording takes no new memory from the device
    assert results[0] == results[1] == results[2]


@needs_compiler
@pytest.mark.filterwarnings("ignore:invalid value")  # in memory that no kernel has written
def test_an_eager_training_step_is_few_launches(xp, monkeypatch, tmp_path):
    """Of the small UNet, from the second step on: the first one also fills caches.

    164 of them are convolutions and norms, forward and backward, each of which needs all of the one
    before; kernels/cuda/README.md lists the others.
    """
    made, names = eager(stepping.trainer(minddpm.SMALL, tmp_path)), Counter()

    def count_only(self, grid, block, args, *, shared_mem=0):
        xp.stats.launches += 1
        names[self.name] += 1

    monkeypatch.setattr(xp.RawKernel, "__call__", count_only)
    for _ in range(2):
        xp.stats.reset()
        names.clear()
        made.train_step()
    assert xp.stats.launches <= 230
    assert names["conv2d_shortcut"] == names["conv2d_shortcut_gradients"] == 10
    assert (xp.stats.synchronisations, xp.stats.to_host) == (0, 0)


def test_a_device_that_runs_out_of_memory_leaves_the_checkpoint_intact(xp, tmp_path, capsys):
    model, pool = trainer("cupy", tmp_path), xp.cuda.MemoryPool()
    model.save()
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    model.train_step()  # so that the next checkpoint would differ
    pool.set_limit(size=20_000)
    with xp.cuda.using_allocator(pool.malloc):
        assert cli.run(lambda: model.train(progress=False)) == 2
    assert re.fullmatch(
        r"error: the GPU has not enough memory \(Out of memory allocating .*\): choose a smaller "
        r"--batch-size or model\.\n",
        capsys.readouterr().err,
    )
    assert {file: file.read_bytes() for file in before} == before


def run_example(tmp_path, name, *arguments, **environment):
    """Run examples/<name> on the stand-in in a folder with three plain grey images."""
    for i in range(3):
        Image.new("L", (8, 8), i * 100).save(tmp_path / f"{i}.png")
    return subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments), "--backend", "cupy"],
        cwd=tmp_path,
        env={**os.environ, "MINDDPM_CUDA": "emulate", "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
    )


def test_the_examples_run_on_the_stand_in(tmp_path):
    """Training, with its samples and checkpoint, then sampling from that checkpoint."""
    train = [*TRAIN, "--image-folder", tmp_path, "--image-size", 8, "--out", "run"]
    sample = ["--model", "run", "--count", 2, "--steps", 2, "--out", "again.png"]
    for name, arguments in (("train_mnist.py", train), ("sample.py", sample)):
        done = run_example(tmp_path, name, *arguments)
        assert done.returncode == 0, done.stderr
        assert "emulated on the CPU" in done.stderr
    for name in ("run/samples.png", "run/denoising.gif", "again.png"):
        assert (tmp_path / name).is_file()


def test_an_example_that_runs_out_of_memory_prints_one_sentence(tmp_path):
    train = [*TRAIN, "--image-folder", tmp_path, "--image-size", 8, "--out", "run"]
    done = run_example(tmp_path, "train_mnist.py", *train, CUPY_GPU_MEMORY_LIMIT="1000000")
    assert done.returncode == 2
    notice, error = done.stderr.splitlines()
    assert "emulated" in notice
    assert "the GPU has not enough memory" in error
    assert "limit set to: 1,000,000 bytes" in error
    assert not (tmp_path / "run").exists()
