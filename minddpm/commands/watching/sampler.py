"""Samples of a fixed seed at some checkpoints, drawn by a process of its own (draw.py).

The process has the lowest priority and the cores that the training leaves; it reads the model that
the run has just saved, and writes pictures beside it. The training tells it a step number, and
never waits for it but after its last step. If it is still busy, no samples are drawn.
"""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from minddpm import backend
from minddpm.models.pretrained import WEIGHTS
from minddpm.training.run_directory import RunDirectory
from minddpm.training.watcher import Watcher

PICTURES = 20  # of a run by default, about
LAST_SECONDS = 20  # to wait for the last picture, after the training
LOWEST = 19  # of the priorities of Unix
DRAW = (sys.executable, "-m", "minddpm.commands.watching.draw")
FOLDER = "progress"  # in the run directory
READY = "ready"  # what the process prints whenever it waits for a step


class Sampler(Watcher):
    """Has samples drawn at the first checkpoint that is at least `every` steps after the last."""

    problem = ""  # why the process has ended before its time

    def __init__(self, run: RunDirectory, steps: int, seed: int, every: int | None = None):
        self.path, self.seed = run.path, seed
        self.steps, self.every = steps, -(-steps // PICTURES) if every is None else every
        self.step = self.last = 0  # of the last checkpoint, of the last samples
        self.process: subprocess.Popen | None = None
        self.idle = threading.Event()

    @contextmanager
    def watching(self, step: int) -> Iterator[None]:
        """End the process with the training; wait only for the samples of its last step."""
        self.last = step
        try:
            yield
            if self.step == self.steps and self.process is not None:
                self.idle.wait(LAST_SECONDS)
                self.ask()
                self.idle.wait(LAST_SECONDS)
        finally:
            self.end()

    def saved(self, step: int) -> None:
        """Ask for samples of the model that has just been saved, if it is time for them."""
        self.step = step
        if not weights_of(self.path).exists():
            return  # a distillation saves its model only in the last stage
        if self.process is None:
            self.start()
        if step < self.steps and step - self.last >= self.every:
            self.ask()

    def start(self) -> None:
        """Start the process. It ends when its stdin is closed, as by the end of this process."""
        words = [str(self.path.resolve()), backend.active().name, str(self.seed), str(self.last)]
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),  # the package from where this process has it
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [*DRAW, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=environment,
            start_new_session=True,  # Ctrl-C is for the training alone
        )  # fmt: skip
        if hasattr(os, "setpriority"):  # not on Windows
            os.setpriority(os.PRIO_PROCESS, self.process.pid, LOWEST)
        threading.Thread(target=self.listen, args=(self.process,), daemon=True).start()

    def ask(self) -> None:
        """Ask for samples of the saved model, unless the process is busy or has ended."""
        if self.problem or not self.idle.is_set():
            return
        self.last = self.step
        self.idle.clear()
        request = {"step": self.step, "version": version(weights_of(self.path))}
        with contextlib.suppress(OSError):  # if it has ended, listen() notes it
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()

    def listen(self, process: subprocess.Popen) -> None:
        """Note when the process is ready; if it ends by itself, note its last words."""
        line = ""
        with process.stdout as stream:
            for raw in stream:
                text = raw.decode(errors="replace").strip()
                if text == READY:
                    self.idle.set()
                line = text or line
        if self.process is process:
            code = process.wait()
            self.problem = f"the process that draws samples has ended (exit code {code}): {line}"
            self.idle.set()  # nobody waits any more

    def end(self) -> None:
        """End the process, whatever it does; what it was writing gets no name."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        process.wait()
        process.stdin.close()
        for path in (self.path / FOLDER).glob(f".*.{process.pid}.tmp"):
            path.unlink(missing_ok=True)


def weights_of(path: Path) -> Path:
    """Return the file with the averaged weights of a run."""
    return path / "unet" / WEIGHTS


def version(path: Path) -> list[int]:
    """Return numbers that differ as soon as another file has taken this name."""
    status = path.stat()
    return [status.st_ino, status.st_mtime_ns, status.st_size]
