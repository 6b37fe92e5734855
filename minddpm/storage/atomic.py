"""Files that are either complete or absent, even if the program is killed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from minddpm.errors import InputError


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Open a binary file; it gets the name ``path`` only after the ``with`` block has succeeded.

    The bytes go to a temporary file in the same folder (created if absent), which is then flushed
    to the disk and renamed. If the block fails, a previous file at ``path`` is unchanged.
    Raises InputError if the file cannot be written.
    """
    path = Path(path)
    # The process id in the name prevents a collision of two runs that write the same file.
    temporary = path.parent / f".{path.name}.{os.getpid()}.tmp"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())  # else a power cut could leave an empty file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or error}): free some space, or choose "
            "a folder that you may write to."
        ) from error


def check_writable(path: str | os.PathLike) -> None:
    """Raise InputError if no file can be written at ``path``; its folder is created if absent."""
    path = Path(path)
    # Named like a temporary file: one that a killed process leaves behind is known as such.
    probe = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with atomic_write(probe) as file:
        file.write(b"minddpm")
    probe.unlink()


def check_no_links(directory: Path) -> None:
    """Raise InputError if a folder in the directory is a symbolic link.

    Files would be written where it points to: a directory from a stranger must not choose that.
    Links to files do no harm, as atomic_write replaces them.
    """
    for path in directory.iterdir():
        if path.is_symlink() and path.is_dir():
            raise InputError(
                f"{path} is a symbolic link, and files would be written where it points to: put a "
                "folder in its place."
            )
