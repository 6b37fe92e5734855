"""A disk on which every write from the k-th on fails: it is full, or has become read-only."""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

FULL = errno.ENOSPC
READ_ONLY = errno.EROFS
NO_PERMISSION = errno.EACCES
WRITES = ("replace", "fsync", "ftruncate", "open")  # functions of os that fail when a disk is full
CHANGES = ("mkdir", "unlink", "remove", "rename")  # those that fail if it is read-only, too


class FailingDisk:
    """Counts the calls that write in a folder, and lets them fail from number `first` on.

    count: a shared integer, the number of calls so far; first: None if none fails.
    """

    def __init__(self, folder: Path, error: int, first: int | None, count: Any):
        self.folder, self.error, self.first, self.count = str(folder), error, first, count

    def install(self) -> None:
        """Replace the functions in this process, for good."""
        names = WRITES if self.error == FULL else WRITES + CHANGES
        for name in names:
            setattr(os, name, self._failing(getattr(os, name)))
        builtins.open = io.open = self._failing_open(open)

    def call(self, *arguments: Any) -> None:
        """Count a call, and raise OSError if it fails."""
        if not any(self._is_inside(argument) for argument in arguments):
            return
        self.count.value += 1
        if self.first is not None and self.count.value >= self.first:
            raise OSError(self.error, os.strerror(self.error))

    def _is_inside(self, place: Any) -> bool:
        if isinstance(place, int):  # a file descriptor
            place = os.readlink(f"/proc/self/fd/{place}") if place > 2 else ""
        return isinstance(place, (str, Path)) and str(place).startswith(self.folder)

    def _failing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def failing(*arguments: Any, **options: Any) -> Any:
            reading = function.__name__ == "open" and not arguments[1] & (os.O_WRONLY | os.O_RDWR)
            if not reading:
                self.call(*arguments[:2])
            return function(*arguments, **options)

        return failing

    def _failing_open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        disk = self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                disk.call(self.name)
                return super().write(data)

        def failing(file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
            if mode not in ("wb", "ab") or not disk._is_inside(file):
                return function(file, mode, *arguments, **options)
            disk.call(file)
            return io.BufferedWriter(File(os.fspath(file), mode))

        return failing
