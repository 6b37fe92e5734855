"""The user's cache folder: downloads and compiled kernels."""

import os
import tempfile
from pathlib import Path


def cache_home() -> Path:
    """Our folder in the user's cache: XDG_CACHE_HOME or ~/.cache, then minddpm; may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "minddpm")


def cache_directory(*names: str) -> Path:
    """A folder of this name in the user's cache that we may write to, else a temporary one."""
    for place in (cache_home(), Path(tempfile.gettempdir(), "minddpm")):
        folder = place.joinpath(*names)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="minddpm-"))
