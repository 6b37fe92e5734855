"""Where compiled code is kept between runs: a directory of its own for each state of the sources.

Numba notices when the file of a compiled function changes, but not when a kernel or a constant that
it takes from another file does, and would go on with code for other vector lengths. So the name of
the directory is a fingerprint of all these files and of the vector length.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numba

from minddpm.kernels.cpu.vector import W


def _directory() -> Path:
    sources = sorted(Path(__file__).parent.glob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    name = Path("minddpm", "numba", f"{digest[:16]}-{W}")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    places = [Path(cache), Path(tempfile.gettempdir())]
    for place in places:
        try:
            (place / name).mkdir(parents=True, exist_ok=True)
            if os.access(place / name, os.W_OK):
                return place / name
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="minddpm-"))


@contextmanager
def own_cache() -> Iterator[None]:
    """Functions with cache=True that are defined within the block keep their code there.

    Where there is none yet, one line on stderr says what the first step will be waiting for.
    """
    before = numba.config.CACHE_DIR
    directory = _directory()
    if not any(directory.rglob("*.nbc")):
        print("compiling the kernels for this machine: about a minute, once", file=sys.stderr)
    numba.config.CACHE_DIR = str(directory)
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before
