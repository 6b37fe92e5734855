"""The two exceptions that minddpm raises for wrong use."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """The user's input is wrong; the message is one sentence and names the remedy.

    The commands in ``examples/`` print it without a traceback and exit with status 2.
    """


class GraphError(RuntimeError):
    """The autodiff graph was used in a way that would give a wrong gradient."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to an InputError raised in the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
