"""The sectors of global memory that each default kernel moves: a table from the emulator."""

import os
import unittest.mock as mock
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import minddpm
from minddpm import backend
from minddpm.gpucheck.checks import small_trainer
from minddpm.kernels.emulator.cupy_on_cpu.cuda import profiling
from minddpm.kernels.emulator.profile import Line

BATCH = 1  # the emulator takes minutes for it
COEFFICIENTS = (1.0, 0.5, 0.5, 0.5, 0.1, 0.1)  # of the sampler's step: any numbers


@contextmanager
def _emulated() -> Iterator[None]:
    """Within the block a trainer's backend may be cupy, emulated."""
    name = backend.active().name
    with mock.patch.dict(os.environ, MINDDPM_CUDA="emulate"):
        try:
            yield
        finally:
            minddpm.set_backend(name)


def profiled_steps(config: dict[str, Any]) -> list[Line]:
    """Return the memory accesses of a training step and of a sampler's step, kernel by kernel."""
    with _emulated():
        trainer = small_trainer("cupy", "float32", config, BATCH, replay=False)
        shape = BATCH, config["sample_size"], config["sample_size"], config["in_channels"]
        x, output = (backend.active().xp.zeros(shape, "float32") for _ in range(2))
        with profiling() as (lines, _):
            trainer.train_step()
            backend.kernels.sampler_step_normal(x, output, COEFFICIENTS, True, 0, 0, 0)
    return lines


def sectors(config: dict[str, Any] = minddpm.SMALL) -> tuple[list[str], list[list[str]]]:
    """Return for each kernel the sectors of its loads and stores, and the fewest that would do."""
    moved: dict[str, np.ndarray] = defaultdict(lambda: np.zeros((2, 2), int))
    for line in profiled_steps(config):
        if line.space == "global" and line.kind != "atomic":
            moved[line.kernel][int(line.kind == "store")] += (line.transactions, line.ideal)
    rows = [
        [kernel, *(cell for counts in both for cell in _cells(*map(int, counts)))]
        for kernel, both in sorted(moved.items())
    ]
    head = ["kernel", "sectors loaded", "the fewest", "ratio"]
    return [*head, "sectors stored", "the fewest", "ratio"], rows


def _cells(count: int, fewest: int) -> list[str]:
    return [f"{count:,}", f"{fewest:,}", f"{count / fewest:.2f}" if fewest else "-"]
