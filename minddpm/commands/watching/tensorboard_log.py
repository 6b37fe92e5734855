"""loss.csv for TensorBoard, in the folder tensorboard/ of a run: tensorboard --logdir runs

It is written by TensorBoard's own writer, so that the one package brings the writer and the viewer.
(torch.utils.tensorboard and tensorboardX are other writers, for which it is needed all the same.)
"""

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager

from minddpm.errors import InputError
from minddpm.training.run_directory import RunDirectory
from minddpm.training.watcher import Watcher

FOLDER = "tensorboard"


class TensorBoard(Watcher):
    """Writes each number of each row. Raises InputError if the package is not installed."""

    def __init__(self, run: RunDirectory):
        self.path = run.path / FOLDER
        try:
            self.summary = importlib.import_module("tensorboard.summary")
        except ImportError as error:
            raise InputError(
                f"--tensorboard needs the package tensorboard ({error}): pip install tensorboard, "
                "or leave it out."
            ) from error

    @contextmanager
    def watching(self, step: int) -> Iterator[None]:
        """Open a file of its own for each part of a run, and close it at the end."""
        self.writer = self.summary.Writer(str(self.path))
        try:
            yield
        finally:
            self.writer.close()

    def row(self, row: dict[str, float]) -> None:
        """Write the numbers of a row; nan has no point in a curve."""
        for name, value in row.items():
            if name != "step" and math.isfinite(value):
                self.writer.add_scalar(name, value, int(row["step"]))
