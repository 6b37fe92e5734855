"""A run directory: the files that training writes, and how a run resumes from them.

training_state.safetensors alone determines the state of a run. It is one file, renamed into place
when it is complete, so a kill at any moment leaves the previous checkpoint intact. Only a run that
is made longer needs another one, before_cooldown.safetensors. Everything else (the pipeline for
diffusers, the figures) can be regenerated, or only shows the run to a reader (index.html and
progress/, commands/watching).
"""

import csv
import io
import platform
import re
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from minddpm import backend
from minddpm.errors import InputError
from minddpm.storage.atomic import atomic_write, check_no_links, check_writable
from minddpm.storage.json_files import read_json, write_json
from minddpm.storage.lock import lock
from minddpm.storage.tensors import check_same_names, read_tensors, write_tensors
from minddpm.version import __version__

STATE = "training_state.safetensors"
BEFORE_COOLDOWN = "before_cooldown.safetensors"  # the state from which a longer run continues
RUN = "run.json"
LOSS = "loss.csv"
LOSS_COLUMNS = ("step", "loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "grad_norm", "lr")


class RunDirectory:
    """The files of one training run under `path`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def lock(self) -> None:
        """Let no other process train here while this object exists.

        Raises InputError if another process does.
        """
        self._lock = lock(self.path)

    def check_new(self, bytes_needed: int) -> None:
        """Check that a new run can start here, and create its directory (a test write needs it).

        Raises InputError, before any training, if the directory is not empty or not writable, or if
        the disk is too full for the checkpoints.
        """
        self._check_empty()
        self.check_writable(bytes_needed)
        self._check_empty()  # it is locked only now: another process may have trained here
        self._remove_leftovers()

    def _check_empty(self) -> None:
        if (self.path / RUN).exists():
            raise InputError(
                f"{self.path} already holds a run: continue with --resume, or choose another --out."
            )
        if self.path.exists() and not (
            self.path.is_dir() and all(_is_leftover(path) for path in self.path.iterdir())
        ):
            raise InputError(f"{self.path} exists and is not a run: choose another --out.")

    def check_writable(self, bytes_needed: int) -> None:
        """Lock the directory; raise InputError if it is locked, not writable, or too full."""
        check_writable(self.path / STATE)
        free = shutil.disk_usage(self.path).free
        if free < bytes_needed:
            raise InputError(
                f"{self.path} is on a disk with {free / 1e6:.0f} MB left, but the run needs "
                f"{bytes_needed / 1e6:.0f} MB: free some space, or choose another --out."
            )
        self.lock()

    def write_info(self, options: dict[str, Any], data: dict[str, Any]) -> None:
        """Write run.json: every option, the data, and the versions of the packages."""
        packages = ("numpy", "numba", "pillow", "safetensors")
        versions = {
            "minddpm": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        }
        write_json(self.path / RUN, {"options": options, "data": data, "versions": versions})

    def read_info(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options and the data of the run. Raises InputError if there is no run."""
        if not (self.path / RUN).is_file():
            raise InputError(
                f"{self.path} holds no run to resume (no {RUN}): leave out --resume to start one."
            )
        info = read_json(self.path / RUN)
        options, data = info.get("options"), info.get("data")
        if not isinstance(options, dict) or not isinstance(data, dict):
            raise InputError(f"{self.path / RUN} has no options and data: give a run of minddpm.")
        names = data.get("label_names") or []
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise InputError(
                f"{self.path / RUN} has label_names={names!r:.200}: restore the original value."
            )
        return options, data

    def save_state(
        self, arrays: dict[str, dict[str, np.ndarray]], step: int, file: str = STATE
    ) -> None:
        """Write the checkpoint; arrays: group ("raw", "ema", "adam_m", ...) -> name -> array."""
        tensors = {
            f"{group}/{name}": array
            for group, named in arrays.items()
            for name, array in named.items()
        }
        write_tensors(self.path / file, tensors, {"step": str(step)})

    def load_state(
        self, like: dict[str, dict[str, np.ndarray]], optional: Sequence[str] = (),
        file: str = STATE,
    ) -> int | None:  # fmt: skip
        """Fill the arrays of `like` from the checkpoint and return its step.

        Return None if there is no checkpoint yet. optional: groups that may be missing from `like`
        or from the checkpoint; such a group is skipped.
        Raises InputError if the checkpoint is damaged or belongs to another architecture, or if the
        run would write outside its directory.
        """
        path = self.path / file
        if self.path.exists():
            check_no_links(self.path)
        self._remove_leftovers()
        if not path.exists():
            # A run killed before its first checkpoint may have the state before its cooldown.
            if any(p.name != BEFORE_COOLDOWN for p in self.path.rglob("*.safetensors")):
                raise InputError(
                    f"{path} is missing, so that the run would start again and overwrite its "
                    "model: restore the file, or choose another --out."
                )
            return None
        tensors, info = read_tensors(path)
        expected = {
            f"{group}/{name}": a for group, named in like.items() for name, a in named.items()
        }
        for name in expected.keys() ^ tensors.keys():  # names in only one of the two
            if name.split("/")[0] in optional:
                expected.pop(name, None)
                tensors.pop(name, None)
        check_same_names(expected, tensors, path)
        if not info.get("step", "").isdecimal():
            raise InputError(f"{path} has no step: give a checkpoint of minddpm.")
        for name, array in expected.items():
            array[...] = backend.array_module(array).asarray(tensors[name])
        return int(info["step"])

    def _remove_leftovers(self) -> None:
        for path in self.path.rglob(".*"):
            if _is_leftover(path):
                path.unlink(missing_ok=True)


def _is_leftover(path: Path) -> bool:
    """Return whether atomic_write named this file: a killed process leaves it behind."""
    return re.fullmatch(r"\..+\.\d+\.tmp", path.name) is not None


class LossLog:
    """loss.csv, the log of a run: one row every few steps."""

    def __init__(self, path: Path, resumed_step: int, columns: Sequence[str] = LOSS_COLUMNS):
        """Open the log at `path` and drop the rows of steps after resumed_step.

        columns: column names; "step" is an integer, all others are floats.
        """
        self.path, self.columns = path, columns
        rows = [row for row in read_loss(path, columns) if row["step"] <= resumed_step]
        with atomic_write(path) as file:
            file.write(_csv([columns, *map(self._cells, rows)]))

    def add(self, row: dict[str, float]) -> None:
        """Append one row to the file. Raises InputError if the file cannot be written."""
        try:
            with open(self.path, "ab") as file:
                file.write(_csv([self._cells(row)]))
        except OSError as error:
            raise InputError(
                f"{self.path} could not be written ({error.strerror}): free some space, then "
                "continue from the last checkpoint with --resume."
            ) from error

    def _cells(self, row: dict[str, float]) -> list[str]:
        return [f"{row[name]:.6g}" if name != "step" else str(row[name]) for name in self.columns]


def read_loss(path: Path, columns: Sequence[str] = LOSS_COLUMNS) -> list[dict[str, float]]:
    """Return the rows of a loss.csv, [] if there is no file; ignore an incomplete last line."""
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        complete_lines = text[: text.rfind("\n") + 1]
        return [
            {name: float(row[name]) if name != "step" else int(row[name]) for name in columns}
            for row in csv.DictReader(io.StringIO(complete_lines))
        ]
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not the log of a run ({error!r}): remove it.") from error


def _csv(rows: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
