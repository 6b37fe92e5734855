"""Timings of what users run, training steps and sampling steps, beside PyTorch's."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np

import minddpm
from minddpm import backend
from minddpm.diffusion.sampling import Step
from minddpm.gpucheck import timings
from minddpm.gpucheck.arrays import verify
from minddpm.gpucheck.checks import (
    TINY,
    TRAINING_TOLERANCES,
    losses,
    random_unet,
    reference_losses,
    sampling,
    small_trainer,
    training_check,
)
from minddpm.gpucheck.machine import pytorch_problem
from minddpm.gpucheck.modes import MODES, Mode
from minddpm.gpucheck.timings import TOLERANCE, NotAvailableError, Run, Task
from minddpm.kernels.cuda.ladder import TENSOR_CORES

QUEUED = 3  # steps that are launched before the first one starts
PLAIN = "cupy-reference"


def training(quick: bool) -> list[Task]:
    """Return the timings of a training step, in the order of the table; quick: a smaller batch."""
    contestants = [
        ("cupy, replayed", "cupy", "float32", True), ("cupy, eager", "cupy", "float32", False),
        *(
            (f"cupy, {name}, replayed", "cupy", name, True)
            for name in TENSOR_CORES if name in backend.precisions()
        ),
        (PLAIN, PLAIN, "float32", False),
    ]  # fmt: skip
    return [_task("training", who, partial(_training, *how), quick) for who, *how in contestants]


def sampling_steps(quick: bool) -> list[Task]:
    """Return the timings of a sampling step: the network, fresh noise and the update."""
    contestants = [("cupy, graph", "cupy", True), ("cupy, eager", "cupy", False)]
    contestants.append((PLAIN, PLAIN, False))
    return [_task("sampling", who, partial(_sampling, *how), quick) for who, *how in contestants]


def run_all(quick: bool) -> None:
    """Run all kernels of a training step in every precision, and of a sampling step.

    Then CuPy's own kernels, hundreds, which it compiles one after the other.
    """
    batch = timings.QUICK_BATCH if quick else timings.BATCH
    for precision in ("float32", *(name for name in TENSOR_CORES if name in backend.precisions())):
        small_trainer("cupy", precision, minddpm.SMALL, batch, replay=False).train_step()
    _steps("cupy", minddpm.SMALL, batch, replay=False)()
    try:
        small_trainer(PLAIN, "float32", minddpm.SMALL, batch, replay=False).train_step()
    finally:
        minddpm.set_backend("cupy")


def _task(what: str, who: str, prepare: Any, quick: bool) -> Task:
    batch, rounds = (timings.QUICK_BATCH, 5) if quick else (timings.BATCH, 21)
    run = partial(prepare, minddpm.SMALL, batch)
    title, queued = f"{what} step, {batch} images", 0 if who == PLAIN else QUEUED
    return Task(title, who, run, rounds, calls=1, queued=queued, images=batch)


def _training(name: str, precision: str, replay: bool, config: dict, batch: int) -> Run:
    wanted = _expected_losses(config is TINY, batch)
    trainer = small_trainer(name, precision, config, batch, replay)
    verify(losses(trainer, 2), wanted, TRAINING_TOLERANCES[precision])
    return trainer.train_step


def _sampling(name: str, replay: bool, config: dict, batch: int) -> Run:
    wanted = _expected_samples(config is TINY, batch)[1]
    run = _steps(name, config, batch, replay)
    run()
    verify(run().x, wanted, 10 * TOLERANCE)  # the first step that launches a graph
    return run


@cache
def _trusted(tiny: bool) -> str:
    """Return the backend whose results all must have: plain CuPy, if it has NumPy's.

    NumPy itself would take half a minute for a large batch.
    """
    return PLAIN if training_check(PLAIN, "float32", quick=tiny).ok else "numpy"


def _expected_losses(tiny: bool, batch: int) -> np.ndarray:
    return reference_losses(_trusted(tiny), tiny, batch, 2)


@cache
def _expected_samples(tiny: bool, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Return x after the first and the second step, for all that are compared with it."""
    run = _steps(_trusted(tiny), TINY if tiny else minddpm.SMALL, batch, False)
    return backend.to_numpy(run().x), backend.to_numpy(run().x)


def _steps(name: str, config: dict, batch: int, replay: bool) -> Callable[[], Step]:
    """Return a function that does the next sampling step, with constant weights as in generate."""
    minddpm.set_backend(name)
    steps, derived = sampling(random_unet(config), batch, 1000, replay), {}

    def run() -> Step:
        with backend.kernels.constant_weights(derived):
            return next(steps)

    return run


# --- PyTorch -------------------------------------------------------------------------------------


def pytorch(what: str, how: tuple[str, ...], quick: bool) -> list[Task]:
    """Return PyTorch's timings of a "training" or "sampling" step, in the GPU's own precisions.

    how: "eager", "graph", "compiled". Without PyTorch there is one timing, of the eager ones, which
    says so.
    """
    if pytorch_problem("diffusers"):
        return [_task(what, "PyTorch", _missing, quick)] * ("eager" in how)
    run = {"training": _torch_training, "sampling": _torch_sampling}[what]
    known = ("FP32", *(name.upper() for name in backend.precisions()))
    modes = [mode for mode in MODES if mode.how in how and mode.precision.upper() in known]
    return [_task(what, mode.name, partial(run, mode), quick) for mode in modes]


def _missing(*_: Any) -> Run:
    raise NotAvailableError(pytorch_problem("diffusers"))


def _torch_training(mode: Mode, config: dict, batch: int) -> Run:
    from minddpm.gpucheck import pytorch

    wanted = _expected_losses(config is TINY, batch)
    minddpm.set_backend("cupy")
    return pytorch.training(mode, config, batch, wanted)


def _torch_sampling(mode: Mode, config: dict, batch: int) -> Run:
    from minddpm.gpucheck import pytorch

    wanted = _expected_samples(config is TINY, batch)[0]
    minddpm.set_backend("cupy")
    return pytorch.sampling(mode, config, batch, wanted)
