"""The user's cache folder: downloads and compiled kernels."""

import os
import tempfile
from pathlib import Path


def cache_home() -> Path:
    """Return minddpm's cache folder, in XDG_CACHE_HOME or ~/.cache; the folder may not exist."""
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "minddpm")


def cache_directory(*names: str) -> Path:
    """Create and return this folder in the cache; if it is not writable, a temporary folder."""
    for place in (cache_home(), Path(tempfile.gettempdir(), "minddpm")):
        folder = place.joinpath(*names)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    return Path(tempfile.mkdtemp(prefix="minddpm-"))
