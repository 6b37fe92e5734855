"""A run directory: what training writes, how it stays whole, and how a run goes on from it.

training_state.safetensors alone decides where a run stands: it is one file, renamed into place
when it is complete, so a kill at any moment leaves the checkpoint before it. Everything else
(the pipeline for diffusers, the pictures) is made from it again.
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
from minddpm.storage.atomic import atomic_write, check_writable
from minddpm.storage.json_files import read_json, write_json
from minddpm.storage.tensors import check_same_names, read_tensors, write_tensors
from minddpm.version import __version__

STATE = "training_state.safetensors"
RUN = "run.json"
LOSS = "loss.csv"
LOSS_COLUMNS = ("step", "loss", "loss_q1", "loss_q2", "loss_q3", "loss_q4", "grad_norm", "lr")


class RunDirectory:
    """The files of one training run under `path`."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def check_new(self, bytes_needed: int) -> None:
        """Make the directory for a new run.

        Raises InputError, before any training, if it holds something already, cannot be written
        to, or its disk has too little room for the checkpoints.
        """
        if (self.path / RUN).exists():
            raise InputError(
                f"{self.path} holds a run already: go on with --resume, or choose another --out."
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise InputError(f"{self.path} exists and is not a run: choose another --out.")
        self.check_writable(bytes_needed)

    def check_writable(self, bytes_needed: int) -> None:
        """Raise InputError if a checkpoint could not be written here."""
        check_writable(self.path / STATE)
        free = shutil.disk_usage(self.path).free
        if free < bytes_needed:
            raise InputError(
                f"{self.path} is on a disk with {free / 1e6:.0f} MB left, and the run needs "
                f"{bytes_needed / 1e6:.0f} MB: free some, or choose another --out."
            )

    def write_info(self, options: dict[str, Any], data: dict[str, Any]) -> None:
        """Write run.json: every option, the data, and the versions that they run under."""
        packages = ("numpy", "numba", "pillow", "safetensors")
        versions = {
            "minddpm": __version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in packages},
        }
        write_json(self.path / RUN, {"options": options, "data": data, "versions": versions})

    def read_info(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The options and the data of the run. Raises InputError if there is no run here."""
        if not (self.path / RUN).is_file():
            raise InputError(
                f"{self.path} holds no run to resume (no {RUN}): leave --resume out to begin one."
            )
        info = read_json(self.path / RUN)
        options, data = info.get("options"), info.get("data")
        if not isinstance(options, dict) or not isinstance(data, dict):
            raise InputError(f"{self.path / RUN} has no options and data: it is no run of minddpm.")
        return options, data

    def save_state(self, arrays: dict[str, dict[str, np.ndarray]], step: int) -> None:
        """Write the checkpoint: groups ("raw", "ema", "adam_m", "adam_v") of named arrays."""
        tensors = {
            f"{group}/{name}": array
            for group, named in arrays.items()
            for name, array in named.items()
        }
        write_tensors(self.path / STATE, tensors, {"step": str(step)})

    def load_state(
        self, like: dict[str, dict[str, np.ndarray]], optional: Sequence[str] = ()
    ) -> int | None:
        """Fill the arrays of `like` from the checkpoint and return its step; None if there is none.

        optional: groups that may be in one of the two alone; they are left as they are.

        Raises InputError if it is the checkpoint of another architecture, or not whole.
        """
        path = self.path / STATE
        self._remove_leftovers()
        if not path.exists():
            if (self.path / "model_index.json").exists() or read_loss(self.path / LOSS, ("step",)):
                raise InputError(
                    f"{path} is missing, without which the run would begin anew and overwrite its "
                    "model: put it back, or choose another --out."
                )
            return None
        tensors, info = read_tensors(path)
        expected = {
            f"{group}/{name}": a for group, named in like.items() for name, a in named.items()
        }
        for one, other in ((expected, tensors), (tensors, expected)):
            for name in [name for name in one if name not in other]:
                if name.split("/")[0] in optional:
                    del one[name]
        check_same_names(expected, tensors, path)
        if not info.get("step", "").isdecimal():
            raise InputError(f"{path} does not say its step: it is not a checkpoint of minddpm.")
        for name, array in expected.items():
            array[...] = backend.array_module(array).asarray(tensors[name])
        return int(info["step"])

    def _remove_leftovers(self) -> None:
        # A kill while a file is being written leaves its temporary name behind.
        for leftover in self.path.rglob(".*.tmp"):
            if re.fullmatch(r"\..+\.\d+\.tmp", leftover.name):  # as atomic_write names them
                leftover.unlink(missing_ok=True)


class LossLog:
    """loss.csv: one row for every few steps."""

    def __init__(self, path: Path, resumed_step: int, columns: Sequence[str] = LOSS_COLUMNS):
        """Open the log at `path`, without the rows of steps that the checkpoint does not have.

        columns: "step", which is an integer, and others.
        """
        self.path, self.columns = path, columns
        rows = [row for row in read_loss(path, columns) if row["step"] <= resumed_step]
        with atomic_write(path) as file:
            file.write(_csv([columns, *map(self._cells, rows)]))

    def add(self, row: dict[str, float]) -> None:
        """Append one row, in the file when this returns. Raises InputError where that fails."""
        try:
            with open(self.path, "ab") as file:
                file.write(_csv([self._cells(row)]))
        except OSError as error:
            raise InputError(
                f"{self.path} could not be written ({error.strerror}): free some space, then go on "
                "from the last checkpoint with --resume."
            ) from error

    def _cells(self, row: dict[str, float]) -> list[str]:
        return [f"{row[name]:.6g}" if name != "step" else str(row[name]) for name in self.columns]


def read_loss(path: Path, columns: Sequence[str] = LOSS_COLUMNS) -> list[dict[str, float]]:
    """The rows of a loss.csv, none if there is no such file. A torn last line is left out."""
    if not path.exists():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        whole_lines = text[: text.rfind("\n") + 1]
        return [
            {name: float(row[name]) if name != "step" else int(row[name]) for name in columns}
            for row in csv.DictReader(io.StringIO(whole_lines))
        ]
    except (OSError, TypeError, ValueError, KeyError) as error:
        raise InputError(f"{path} is not the log of a run ({error!r}): move it away.") from error


def _csv(rows: list[Any]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
