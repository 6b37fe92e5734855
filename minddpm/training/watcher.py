"""What is told of a training while it runs: a page, a process that draws samples, TensorBoard."""

from collections.abc import Iterator
from contextlib import contextmanager


class Watcher:
    """Is told what a training does. It must not change its results; subclasses override methods."""

    @contextmanager
    def watching(self, step: int) -> Iterator[None]:
        """Surround a training that goes on at `step`; an error that ends it passes through."""
        yield

    def row(self, row: dict[str, float]) -> None:
        """Note a new row of loss.csv."""

    def saved(self, step: int) -> None:
        """Note that checkpoint and model of this step have been written."""
