"""The user's cache folder: downloads and compiled kernels."""

import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from minddpm.errors import InputError


def cache_home() -> Path:
    """Return minddpm's cache folder, in XDG_CACHE_HOME or ~/.cache; the folder may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "minddpm")


def cache_directory(*names: str) -> Path:
    """Create and return this folder in the cache; if it is not writable, in a temporary folder.

    The temporary folder is removed when the process ends. Raises InputError if there is none.
    """
    folder = cache_home().joinpath(*names)
    if _can_be_written(folder):
        return folder
    try:
        folder = Path(_temporary().name, *names)
    except OSError as error:
        raise InputError(
            f"neither {cache_home()} nor a temporary folder can be written ({error}): set "
            "XDG_CACHE_HOME to a folder that can."
        ) from error
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cached_file(folder: str, name: str, make: Callable[[Path], None]) -> Path:
    """Return a file in a folder of the cache; `make` writes it to the path it gets if it is absent.

    make: may leave other files beside that path, which are removed.
    """
    cached = cache_directory(folder) / name
    if not cached.exists():
        with tempfile.TemporaryDirectory(dir=cached.parent) as work:
            target = Path(work, name)
            make(target)
            with target.open("rb") as file:
                os.fsync(file.fileno())  # else a power cut could leave an empty file
            os.replace(target, cached)  # atomic: two processes may make the same file
    return cached


@cache
def _temporary() -> tempfile.TemporaryDirectory:
    """Return a new folder: one of a known name in /tmp could have been filled by another user."""
    return tempfile.TemporaryDirectory(prefix="minddpm-")


def _can_be_written(folder: Path) -> bool:
    """Return whether the folder, created if it is absent, takes a file."""
    # os.access does not notice a full disk.
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"minddpm" * 1000)
    except OSError:
        return False
    return True
