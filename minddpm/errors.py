"""The two kinds of failure that minddpm reports on purpose."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(ValueError):
    """Something the user gave is wrong; the message is one sentence and names the remedy.

    The commands in ``examples/`` print it without a traceback and exit with status 2.
    """


class GraphError(RuntimeError):
    """The autodiff graph was used in a way that would give a wrong gradient."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file that an InputError in the block is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
