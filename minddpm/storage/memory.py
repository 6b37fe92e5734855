"""The memory of this machine, which a model from a stranger must not exhaust."""

import os
from pathlib import Path

from minddpm.errors import InputError


def check_memory(size: int, what: str | Path) -> None:
    """Raise InputError if `what` needs more bytes than this machine has memory."""
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", ()):  # on Windows
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        raise InputError(
            f"{what} needs {size / 1e9:.1f} GB, and this machine has {memory / 1e9:.1f} GB of "
            "memory: choose something smaller."
        )
