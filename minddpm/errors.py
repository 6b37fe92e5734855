"""The two exceptions that minddpm raises for wrong use."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LONGEST = 1000  # characters of a message


class InputError(ValueError):
    """The user's input is wrong; the message is one sentence and names the remedy.

    The commands print it without a traceback and exit with status 2. Values from a file cannot
    break the line: characters that are not printable are escaped, and of a long message the
    beginning and the end remain.
    """

    def __init__(self, sentence: str):
        line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in sentence)
        if len(line) > LONGEST:
            line = f"{line[: LONGEST // 2]} ... {line[-LONGEST // 3 :]}"
        super().__init__(line)


class GraphError(RuntimeError):
    """The autodiff graph was used in a way that would give a wrong gradient."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Add the file's name to an InputError raised in the block."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
