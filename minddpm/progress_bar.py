"""Progress bars: one line that renews itself in a terminal, a line a minute in a log file."""

import io
import sys
from typing import Any, TextIO

import tqdm.std

SECONDS = 60  # between two lines of a log file


class tqdm(tqdm.std.tqdm):  # noqa: N801, as the class that it replaces
    """tqdm's progress bar; if stderr is a file or a pipe, each state is a line of its own."""

    def __init__(self, *args: Any, **options: Any):
        # Not in a notebook: its stderr is no terminal, but renews a line as one does.
        if isinstance(sys.stderr, io.TextIOWrapper) and not sys.stderr.isatty():
            options |= {"file": _Lines(sys.stderr), "mininterval": SECONDS, "maxinterval": SECONDS}
        super().__init__(*args, **options)


class _Lines(io.TextIOBase):
    """A text file that gets each state of a bar as a line."""

    def __init__(self, file: TextIO):
        self._file = file

    def write(self, text: str) -> int:
        if line := text.strip():  # a bar begins with a carriage return, to overwrite the last one
            self._file.write(line + "\n")
        return len(text)

    def flush(self) -> None:
        self._file.flush()
