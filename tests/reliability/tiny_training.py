"""A training of a tiny model by examples/train_mnist.py in a process of its own, and its files.

The process may be killed, or meet a fault. Whatever happened, no file is damaged then, the same
command goes on with --resume, and it ends with the files of a run that met no fault.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from builders import TINIEST, read_files
from commands import load
from PIL import Image
from tqdm import tqdm

from minddpm.commands import cli
from minddpm.commands.model_card import CARD
from minddpm.commands.watching.page import INDEX, PROGRESS
from minddpm.errors import InputError
from minddpm.storage.tensors import read_tensors
from minddpm.training.run_directory import LOSS, RUN, STATE, read_loss

STEPS, SIZE = 6, 8
SECONDS = 60  # more than a training takes that compiles all kernels
PROCESSES = get_context("fork")  # starts in a millisecond, and one command can be changed in it


class Ended:
    """How a training ended: its exit code (below 0: the signal), and the last line of stderr."""

    def __init__(self, code: int, stderr: str):
        self.code, self.line = code, (stderr.strip().splitlines() or [""])[-1]

    @property
    def refused(self) -> bool:
        """Return whether it ended as an expected failure does: exit code 2 and one sentence."""
        return self.code == 2 and self.line.startswith("error: ") and self.line.endswith(".")


class Training:
    """A training whose command line is always the same; `folder` gets its images and runs.

    messages: the folder that gets the text on stderr, by default the same.
    """

    def __init__(self, folder: Path, backend: str = "numpy", messages: Path | None = None):
        self.folder, self.backend, self.count = folder, backend, 0
        self.messages = messages or folder
        if not (folder / "images").exists():
            (folder / "images").mkdir(parents=True)
            rng = np.random.default_rng(0)
            for i in range(6):
                image = rng.integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
                Image.fromarray(image).save(folder / "images" / f"{i}.png")
        self.expected = self.complete(self.new())

    def new(self) -> Path:
        """Return the directory of a new run."""
        self.count += 1
        return self.folder / f"{self.backend}-{self.count}"

    def start(
        self, out: Path, before: Callable[[], Any] = lambda: None, program: bool = False
    ) -> Any:
        """Start the run in `out`, or resume it if there is one, and return its process.

        before: is called in the process. program: start Python anew instead of in a forked process.
        """
        words = command_line(self.folder / "images", out, self.backend)
        if (out / RUN).exists():
            words.append("--resume")
        process = PROCESSES.Process(target=_work, args=(words, self._stderr(out), before, program))
        process.start()
        return process

    def end(self, out: Path, process: Any) -> Ended:
        """Wait for the end of a process of `start`, and kill it if it takes too long."""
        process.join(SECONDS)
        process.kill()
        process.join()
        stderr = self._stderr(out)
        # It is missing if the process was killed in its first moment.
        return Ended(process.exitcode, stderr.read_text() if stderr.exists() else "")

    def complete(self, out: Path) -> dict[Path, bytes]:
        """Start or resume a run, and return its files, which end as they should."""
        ended = self.end(out, self.start(out))
        if ended.code != 0:
            raise InputError(f"{out} did not go on (exit code {ended.code}): {ended.line}.")
        # The page's facts have times and speeds in them, and the card the name of the directory.
        other = (Path(PROGRESS), Path(CARD))
        return {name: data for name, data in read_files(out).items() if name not in other}

    def is_complete(self, out: Path) -> bool:
        """Return whether a run has all the files with which it ends."""
        return out.exists() and self.expected.keys() <= read_files(out).keys()

    def after(self, out: Path) -> list[str]:
        """Return what is wrong after a fault: damaged files, or a run that does not go on to the
        same end. Removes the run if nothing is wrong."""
        wrong = damaged(out)
        try:
            files = self.complete(out)
        except InputError as error:
            return [*wrong, str(error)]
        differ = files.keys() ^ self.expected.keys()
        differ |= {name for name in files.keys() - differ if files[name] != self.expected[name]}
        wrong += [f"{out / name} differs from the run without a fault" for name in sorted(differ)]
        if not wrong:
            shutil.rmtree(out)
        return wrong

    def _stderr(self, out: Path) -> Path:
        return self.messages / f"{out.name}.stderr"


def command_line(images: Path, out: Path, backend: str) -> list[str]:
    """Return the arguments of examples/train_mnist.py for a training of about a second."""
    return [
        "--image-folder", str(images), "--image-size", str(SIZE), "--out", str(out),
        "--steps", str(STEPS), "--batch-size", "2", "--timesteps", "40", "--sample-steps", "4",
        "--samples", "4", "--log-every", "1", "--checkpoint-every", "2", "--backend", backend,
        "--sample-every", "0",
        *(["--threads", "1"] if backend == "numba" else []),
    ]  # fmt: skip


def train(words: list[str], before: Callable[[], Any] = lambda: None) -> int:
    """Import examples/train_mnist.py, call before(), train a tiny model; return the exit code."""
    module = load("train_mnist")
    before()
    module.MODELS = {"one-block": TINIEST}
    sys.argv = ["examples/train_mnist.py", *words]
    return cli.run(module.main, in_ranks=True)


def _work(words: list[str], stderr: Path, before: Callable[[], Any], program: bool) -> None:
    # By default forked processes share one lock: a process that is killed while it holds the lock
    # would stop all others for ever.
    tqdm.set_lock(threading.RLock())
    fd = os.open(stderr, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(fd, 2)
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if program:
        before()
        os.environ["PYTHONPATH"] = os.pathsep.join(map(str, Path(__file__).parents[:2]))
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        # join() waits until a pipe is closed, which must not happen now.
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):  # of the list itself
                os.set_inheritable(int(fd), True)
        os.execv(sys.executable, [sys.executable, __file__, *words])
    sys.exit(train(words, before))


def damaged(out: Path) -> list[str]:
    """Return a line for each file of a run that is incomplete or unknown."""
    return [f"{path}: {problem}" for path in out.rglob("*") if (problem := _problem(path))]


def _problem(path: Path) -> str | None:
    if path.is_dir() or path.suffix == ".tmp":
        return None
    try:
        if path.suffix == ".safetensors":
            read_tensors(path)
        elif path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".js":
            json.loads(re.fullmatch(r"\w+\((.*)\);\n", path.read_text())[1])
        elif path.name == INDEX:
            if not path.read_text().endswith("</html>\n"):
                return "truncated"
        elif path.name == CARD:
            if not path.read_text().endswith("\n"):
                return "truncated"
        elif path.name == LOSS:
            read_loss(path)
        elif path.suffix in (".png", ".gif"):
            with Image.open(path) as image:
                for frame in range(getattr(image, "n_frames", 1)):
                    image.seek(frame)
                    image.load()
        else:
            return "unknown"
    except (InputError, ValueError, OSError, SyntaxError, TypeError) as error:  # SyntaxError: PIL's
        return f"damaged ({error})"
    return None


def step(out: Path) -> int | None:
    """Return the step of a run's checkpoint; None if there is none."""
    return int(read_tensors(out / STATE)[1]["step"]) if (out / STATE).exists() else None


if __name__ == "__main__":
    sys.exit(train(sys.argv[1:]))
