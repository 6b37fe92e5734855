"""index.html of a run directory: it opens from file:// and renews itself while the run trains.

A page from file:// may load scripts and images beside it, but read no file. So what changes is a
script, progress/progress.js, which calls progress({...}); the page loads it again every few
seconds. The samples (sampler.py) come the same way. Nothing else of the run depends on these files.
"""

import contextlib
import json
import shlex
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

from minddpm.commands import program
from minddpm.commands.watching.curves import curves
from minddpm.commands.watching.sampler import FOLDER, Sampler
from minddpm.errors import InputError
from minddpm.storage.atomic import atomic_write
from minddpm.training.options import LoopOptions
from minddpm.training.run_directory import LOSS, RUN, RunDirectory, read_loss
from minddpm.training.watcher import Watcher

INDEX, PROGRESS, SAMPLES = "index.html", f"{FOLDER}/progress.js", f"{FOLDER}/samples.js"
SECONDS = 5.0  # between two versions of progress.js, at least
RECENT = 20  # rows of the log from which the speed is computed


class Page(Watcher):
    """Writes the page of a run; sampler: who draws its samples, None if nobody does."""

    def __init__(
        self, run: RunDirectory, options: LoopOptions, columns: Sequence[str],
        sampler: Sampler | None,
    ):  # fmt: skip
        self.path, self.options, self.sampler = run.path, options, sampler
        self.columns = ("step", *columns)
        self.rows: list[list[float]] = []
        self.recent: deque[tuple[float, int]] = deque(maxlen=RECENT)  # (time, step) of the rows
        self.step, self.started, self.written = 0, 0.0, 0.0

    @contextmanager
    def watching(self, step: int) -> Iterator[None]:
        """Write the page at the beginning and at the end, which says how the training ended."""
        self.step, self.started = step, time.time()
        self.recent.append((time.perf_counter(), step))
        log = read_loss(self.path / LOSS, self.columns)
        self.rows = [[row[name] for name in self.columns] for row in log]
        template = resources.files(__package__).joinpath("page.html")
        write_quietly(self.path / INDEX, template.read_bytes())
        if not (self.path / SAMPLES).exists():
            write_quietly(self.path / SAMPLES, call("samples", {"pictures": []}))
        self.write("running")
        try:
            yield
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            self.write("interrupted" if stopped else "failed", "" if stopped else str(error))
            raise
        self.write("done" if self.step >= self.options.steps else "interrupted")

    def row(self, row: dict[str, float]) -> None:
        """Note a row, and write progress.js if it is SECONDS old."""
        self.step, now = int(row["step"]), time.perf_counter()
        self.rows.append([row[name] for name in self.columns])
        self.recent.append((now, self.step))
        if now - self.written >= SECONDS:
            self.write("running")

    def saved(self, step: int) -> None:
        """Note the step, which may have no row if Ctrl-C has stopped the training."""
        self.step = step

    def write(self, state: str, problem: str = "") -> None:
        """Write progress.js; state: running, done, interrupted or failed."""
        self.written = time.perf_counter()
        write_quietly(self.path / PROGRESS, call("progress", self.content(state, problem)))

    def content(self, state: str, problem: str) -> dict[str, Any]:
        """Return what the page shows, apart from the samples."""
        (before, first), (now, last) = self.recent[0], self.recent[-1]
        rate = (last - first) / (now - before) if last > first else 0.0  # steps a second
        info = RunDirectory(self.path).read_info() if (self.path / RUN).exists() else ({}, {})
        return {
            "state": state,
            "problem": problem,
            "step": self.step,
            "steps": self.options.steps,
            "images_per_second": rate * self.options.batch_size,
            "seconds_left": (self.options.steps - self.step) / rate if rate else None,
            "seconds_per_row": max(SECONDS, self.options.log_every / rate) if rate else None,
            "started": self.started,
            "updated": time.time(),
            "name": str(self.path.resolve()),
            "command": shlex.join([*program.words(), *sys.argv[1:]]),
            "options": info[0],
            "data": info[1],
            "loss": curves(self.columns, self.rows),
            "samples": self.sampler is not None,
            "sampler_problem": self.sampler.problem if self.sampler else "",
        }


def call(function: str, content: dict[str, Any]) -> bytes:
    """Return a script that calls a function of the page; a byte that is no text becomes "?"."""
    text = json.dumps(content, ensure_ascii=False)
    return f"{function}({text});\n".encode("utf-8", "replace")


def write_quietly(path: Path, content: bytes) -> None:
    """Write a file of the page atomically; a training does not end because this is impossible."""
    with contextlib.suppress(InputError), atomic_write(path) as file:
        file.write(content)
