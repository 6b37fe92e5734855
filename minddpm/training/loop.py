"""Steps, a log and checkpoints, until Ctrl-C: what every training has in common."""

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Event
from types import FrameType
from typing import Any

import numpy as np
from tqdm import tqdm

from minddpm import backend, nn
from minddpm.backend import Array
from minddpm.data import ImageDataset
from minddpm.training.options import LoopOptions
from minddpm.training.run_directory import LOSS, LossLog, RunDirectory

State = dict[str, dict[str, Array]]  # group, name: an array of the checkpoint


class TrainingDivergedError(RuntimeError):
    """The loss or a gradient is no longer a finite number."""


class Loop:
    """A training that keeps its run in `run`; what a step is, a subclass says.

    A step has to be a pure function of the options, the step's number and the arrays in state():
    then a resumed run needs nothing else, and N + N steps are bit for bit 2N steps.
    """

    columns: Sequence[str]  # of the log, after "step"; the first stands beside the progress bar
    optional: Sequence[str] = ()  # groups of state() that some precisions have, and others not

    def __init__(self, dataset: ImageDataset, run: RunDirectory, options: LoopOptions):
        self.dataset, self.run, self.options = dataset, run, options
        self.step = 0

    # --- for the subclass ------------------------------------------------------------------------

    def train_step(self) -> Any:
        """One step, self.step + 1 included; what it returns is kept for row()."""
        raise NotImplementedError

    def row(self, records: list[Any]) -> dict[str, float]:
        """One row of the log, without "step", from the records since the last one.

        Where training waits for the device. Raises TrainingDivergedError if it went wrong.
        """
        raise NotImplementedError

    def state(self) -> State:
        """Everything that the next step depends on, as arrays (views, where they change)."""
        raise NotImplementedError

    def gradients(self) -> None:
        """The work of a step without its effect: the gradients of the first batch, then zero."""
        raise NotImplementedError

    def resumed(self) -> None:
        """Called when step and state() are those of a checkpoint."""

    def export(self) -> None:
        """Write the model for its users, beside the checkpoint."""

    # --- what it will cost -----------------------------------------------------------------------

    def bytes_needed(self) -> int:
        """Disk space for the checkpoint and the model while their successors are written."""
        arrays = [array for named in self.state().values() for array in named.values()]
        # the model beside the checkpoint, and the pictures
        return 3 * sum(array.nbytes for array in arrays) + 20_000_000

    def parameters(self) -> int:
        """How many numbers are trained."""
        raw = [named for group, named in self.state().items() if group.endswith("raw")]
        return sum(array.size for named in raw for array in named.values())

    def seconds_per_step(self) -> tuple[float, float]:
        """What the gradients of one batch take: the first time, and from then on.

        The first call compiles kernels that are not in the cache, and fills caches and pools.
        """
        seconds = []
        for _ in range(2):
            start = time.perf_counter()
            self.gradients()
            seconds.append(time.perf_counter() - start)
        return seconds[0], seconds[1]

    # --- the loop --------------------------------------------------------------------------------

    def train(self, progress: bool = True) -> bool:
        """Train up to options.steps; True if it got there, False if Ctrl-C stopped it.

        Either way the last thing that it did is a checkpoint.
        """
        options = self.options
        log = LossLog(self.run.path / LOSS, self.step, ("step", *self.columns))
        records: list[Any] = []
        bar = tqdm(total=options.steps, initial=self.step, unit="step", disable=not progress)
        with _interrupt_flag() as interrupted:
            with bar:
                while self.step < options.steps and not interrupted.is_set():
                    records.append(self.train_step())
                    bar.update()
                    save = self.step % options.checkpoint_every == 0
                    last = self.step == options.steps or interrupted.is_set()
                    if self.step % options.log_every == 0 or save or last:
                        row, records = self.row(records), []
                        log.add({"step": self.step, **row})
                        images = (bar.format_dict["rate"] or 0.0) * options.batch_size
                        name = self.columns[0]
                        bar.set_postfix_str(f"{name} {row[name]:.4f}, {images:.0f} images/s")
                    if save and not last:
                        self.save()
            self.save()
        return self.step >= options.steps

    # --- checkpoints -----------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint, then what export() writes."""
        host = {
            group: {name: backend.to_numpy(array) for name, array in named.items()}
            for group, named in self.state().items()
        }
        self.run.save_state(host, self.step)
        self.export()

    def resume(self) -> int:
        """Go on from the run's checkpoint, or from the start if it has none; returns the step."""
        self.step = self.run.load_state(self.state(), self.optional) or 0
        self.resumed()
        return self.step


def optimizer_state(
    module: nn.Module, optimizer: nn.Adam, ema: nn.EMA | None = None, prefix: str = ""
) -> State:
    """A model's part of state(): weights, their average, and Adam's moments, by parameter."""
    names = [name for name, _ in module.named_parameters()]
    flat = optimizer.flat
    buffers = {"raw": flat.data, "adam_m": optimizer.m, "adam_v": optimizer.v}
    if ema is not None:
        buffers["ema"] = ema.average
    return {
        prefix + group: dict(zip(names, flat.views(buffer), strict=True))
        for group, buffer in buffers.items()
    }


def to_table(rows: Sequence[Sequence[Array]]) -> np.ndarray:
    """Arrays of several steps on the host, one row for each step, in one transfer: float64."""
    xp = backend.xp
    flat = [xp.asarray(array).reshape(-1) for row in rows for array in row]
    return backend.to_numpy(xp.concatenate(flat)).reshape(len(rows), -1).astype(np.float64)


def check_finite(table: np.ndarray, first_step: int, loop: Loop) -> None:
    """Raise TrainingDivergedError unless to_table's rows, from first_step on, are finite.

    Its columns are the first ones of the log.
    """
    step, column = np.unravel_index(np.argmin(np.isfinite(table)), table.shape)
    if not np.isfinite(table[step, column]):
        raise TrainingDivergedError(
            f"training diverged at step {first_step + step}: {loop.columns[column]} is not finite. "
            f"What {loop.run.path} held before is whole; begin a new run with a smaller --lr than "
            f"{loop.options.lr:g}."
        )


def mean_norms(squared_norms: np.ndarray) -> list[float]:
    """Of each column the mean of the roots that are finite, nan where none is."""
    norms = np.sqrt(squared_norms)
    finite = [column[np.isfinite(column)] for column in norms.T]
    return [float(column.mean()) if len(column) else math.nan for column in finite]


@contextmanager
def _interrupt_flag() -> Iterator[Event]:
    """An event that Ctrl-C (or a polite kill) sets, so that the step in progress is finished.

    A second Ctrl-C interrupts at once, as usual.
    """
    interrupted = Event()
    previous = {}

    def handle(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, handle)
        except ValueError:  # not the main thread: signals are somebody else's to handle
            break
    try:
        yield interrupted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
