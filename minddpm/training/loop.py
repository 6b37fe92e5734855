"""The training loop that all models share: steps, log, checkpoints, a clean stop on Ctrl-C."""

import math
import signal
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Event
from types import FrameType
from typing import Any

import numpy as np

from minddpm import backend, nn, parallel
from minddpm.backend import Array
from minddpm.data import ImageDataset
from minddpm.errors import InputError
from minddpm.progress_bar import tqdm
from minddpm.training.options import LoopOptions
from minddpm.training.run_directory import BEFORE_COOLDOWN, LOSS, STATE, LossLog, RunDirectory
from minddpm.training.watcher import Watcher

State = dict[str, dict[str, Array]]  # group -> name -> array of a checkpoint


class TrainingDivergedError(RuntimeError):
    """The loss or a gradient is no longer a finite number."""


class Loop:
    """A training loop that writes its files to `run`; subclasses define the step.

    A step must be a pure function of the options, the step number and the arrays in state(). A run
    can then resume from these alone, and N + N steps are bit-equal to 2N steps.
    """

    columns: Sequence[str]  # the log's columns after "step"; the progress bar shows the first
    optional: Sequence[str] = ()  # groups of state() that exist only in some precisions
    uses_labels = False  # whether a step reads the labels of the data set
    watchers: Sequence[Watcher] = ()

    def __init__(self, dataset: ImageDataset, run: RunDirectory, options: LoopOptions):
        self.dataset, self.run, self.options = dataset, run, options
        self.world, self.step = parallel.world(), 0

    # --- defined by subclasses -------------------------------------------------------------------

    def train_step(self) -> Any:
        """Do one training step, increment self.step and return a record for row()."""
        raise NotImplementedError

    def row(self, records: list[Any]) -> dict[str, float]:
        """Return one row of the log, without "step", from the records since the last row.

        Synchronises. Raises TrainingDivergedError if a value is not finite.
        """
        raise NotImplementedError

    def state(self) -> State:
        """Return all arrays on which the next step depends; loading a checkpoint fills them."""
        raise NotImplementedError

    def trial(self) -> None:
        """Do the first step, or compute its gradients, and undo it. Used to time a step."""
        raise NotImplementedError

    def resumed(self) -> None:
        """Update values that depend on self.step, after a checkpoint has been loaded."""

    def export(self) -> None:
        """Write the model to the run directory, in addition to the checkpoint."""

    # --- cost ------------------------------------------------------------------------------------

    def bytes_needed(self) -> int:
        """Return the largest disk space that the run needs, reached while it writes new files."""
        # 4: old and new checkpoint, the one before the cooldown, the model; 20 MB: the figures.
        return 4 * sum(array.nbytes for array in self._arrays()) + 20_000_000

    def _arrays(self) -> list[Array]:
        return [array for named in self.state().values() for array in named.values()]

    def parameters(self) -> int:
        """Return the number of trained parameters."""
        raw = [named for group, named in self.state().items() if group.endswith("raw")]
        return sum(array.size for named in raw for array in named.values())

    def seconds_per_step(self) -> tuple[float, float]:
        """Return the seconds that the first and the third call of trial() take.

        The first call also compiles kernels that are not in the cache, and allocates memory; the
        second may record the third (replay.py).
        """
        seconds = []
        for _ in range(3):
            start = time.perf_counter()
            self.trial()
            seconds.append(time.perf_counter() - start)
        return seconds[0], seconds[2]

    # --- the loop --------------------------------------------------------------------------------

    def train(self, progress: bool = True) -> bool:
        """Train up to options.steps; return True, or False if Ctrl-C stopped training earlier.

        In both cases the last step is saved in a checkpoint. Only rank 0 writes and shows anything.
        """
        options, world = self.options, self.world
        log = world.from_first(
            lambda: LossLog(self.run.path / LOSS, self.step, ("step", *self.columns))
        )
        records: list[Any] = []
        progress = progress and world.rank == 0
        bar = tqdm(total=options.steps, initial=self.step, unit="step", disable=not progress)
        first, started = self.step, time.perf_counter()
        with ExitStack() as stack, _interrupt_flag() as interrupted:
            for watcher in self.watchers:
                stack.enter_context(watcher.watching(self.step))
            with bar:
                stop = world.any(interrupted.is_set())
                while self.step < options.steps and not stop:
                    if 0 < self.step == options.cooldown_begins:
                        world.from_first(partial(self.save_state, BEFORE_COOLDOWN))
                    records.append(self.train_step())
                    bar.update()
                    stop = world.any(interrupted.is_set())
                    save = self.step % options.checkpoint_every == 0
                    last = self.step == options.steps or stop
                    if self.step % options.log_every == 0 or save or last:
                        row, records = {"step": self.step, **self.row(records)}, []
                        world.from_first(partial(log.add, row))
                        for watcher in self.watchers:
                            watcher.row(row)
                        seconds, name = time.perf_counter() - started, self.columns[0]
                        images = (self.step - first) * options.batch_size / seconds
                        text = f"{name} {row[name]:.4f}, {images:.0f} images/s"
                        bar.set_postfix_str(text, refresh=False)  # the next update shows it
                    if save and not last:
                        self.save()
            self.save()
        return self.step >= options.steps

    # --- checkpoints -----------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint, call export(), and tell the watchers, in rank 0."""
        self._check_ranks()
        self.world.from_first(self._save)

    def _save(self) -> None:
        self.save_state(STATE)
        self.export()
        for watcher in self.watchers:
            watcher.saved(self.step)

    def save_state(self, file: str) -> None:
        """Write all arrays on which the next step depends to this file of the run."""
        host = {
            group: {name: backend.to_numpy(array) for name, array in named.items()}
            for group, named in self.state().items()
        }
        self.run.save_state(host, self.step, file)

    def resume(self, file: str = STATE) -> int:
        """Load the run's checkpoint and return its step; return 0 if there is no checkpoint."""
        self.run.lock()
        self.step = self.run.load_state(self.state(), self.optional, file) or 0
        self.resumed()
        return self.step

    def share(self) -> None:
        """Give all ranks the step and the arrays of rank 0.

        Raises InputError unless all have the same images.
        """
        self._check_images()
        self.step = self.world.from_first(lambda: self.step)
        for array in self._arrays():
            self.world.share(array)
        self.resumed()

    def _check_images(self) -> None:
        # Their place may differ from machine to machine.
        if not self.world.agree(lambda: self.dataset.identity() | {"source": None}):
            raise InputError(
                f"the ranks have different images (rank {self.world.rank}: {self.dataset.source}): "
                "give all of them the same folder or file."
            )

    def _check_ranks(self) -> None:
        """Raise TrainingDivergedError unless all ranks have the same weights."""

        def checksums() -> list[int]:
            return [zlib.crc32(backend.to_numpy(array).tobytes()) for array in self._arrays()]

        if not self.world.agree(checksums):
            raise TrainingDivergedError(
                f"the weights of the ranks differ after step {self.step}: use machines of one kind "
                "and the same packages on all. The last checkpoint in "
                f"{self.run.path} is intact."
            )


def optimizer_state(
    module: nn.Module, optimizer: nn.Adam, ema: nn.EMA | None = None, prefix: str = ""
) -> State:
    """Return a model's weights, averages and Adam's moments for state(), by parameter name."""
    flat, name_of = optimizer.flat, {id(p): name for name, p in module.named_parameters()}
    names = [name_of[id(p)] for p in flat.parameters]  # an optimizer may change their order
    buffers = {"raw": flat.data, "adam_m": optimizer.m, "adam_v": optimizer.v}
    if ema is not None:
        buffers["ema"] = ema.average
    return {
        prefix + group: dict(zip(names, flat.views(buffer), strict=True))
        for group, buffer in buffers.items()
    }


def to_table(rows: Sequence[Sequence[Array]]) -> np.ndarray:
    """Copy the arrays of several steps to the host in one transfer: float64, one row per step."""
    xp = backend.xp
    flat = [xp.asarray(array).reshape(-1) for row in rows for array in row]
    return backend.to_numpy(xp.concatenate(flat)).reshape(len(rows), -1).astype(np.float64)


def check_finite(table: np.ndarray, first_step: int, loop: Loop) -> None:
    """Raise TrainingDivergedError unless all entries of `table` are finite.

    table: from to_table; its columns are the first columns of the log. first_step: the step of its
    first row.
    """
    step, column = np.unravel_index(np.argmin(np.isfinite(table)), table.shape)
    if not np.isfinite(table[step, column]):
        raise TrainingDivergedError(
            f"training diverged at step {first_step + step}: {loop.columns[column]} is not finite. "
            f"The last checkpoint in {loop.run.path} is intact; start a new run with an --lr below "
            f"{loop.options.lr:g}."
        )


def mean_norms(squared_norms: np.ndarray) -> list[float]:
    """Return the mean norm of each column over its finite entries, nan if none is finite."""
    norms = np.sqrt(squared_norms)
    finite = [column[np.isfinite(column)] for column in norms.T]
    return [float(column.mean()) if len(column) else math.nan for column in finite]


@contextmanager
def _interrupt_flag() -> Iterator[Event]:
    """Yield an event that SIGINT (Ctrl-C) or SIGTERM sets, so that the current step can finish.

    A second signal has its usual effect: it interrupts at once.
    """
    interrupted = Event()
    previous = {}

    def handle(number: int, frame: FrameType | None) -> None:
        interrupted.set()
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            previous[number] = signal.signal(number, handle)
        except ValueError:  # raised outside the main thread: only that one may set handlers
            break
    try:
        yield interrupted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
