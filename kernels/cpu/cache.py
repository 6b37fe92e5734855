"""The cache of compiled code: one directory for each version of the sources.

Numba notices a change in the file of a compiled function, but not in a kernel or constant that the
function imports from another file, and it would load code for another vector length. So the name of
the directory is a fingerprint of all these files, the vector length and the CPU.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba

from minddpm.kernels.cpu.vector.instructions import LANES
from minddpm.storage.cache_folder import cache_directory


@cache
def directory() -> Path:
    """Return the cache directory of these sources on this machine, created in a writable place."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    digest.update(f"{llvm.get_host_cpu_name()} {numba.__version__}".encode())
    return cache_directory("numba", f"{digest.hexdigest()[:16]}-{LANES}")


@contextmanager
def own_cache() -> Iterator[None]:
    """Make functions defined in the block with cache=True store their code in directory()."""
    before = numba.config.CACHE_DIR
    numba.config.CACHE_DIR = str(directory())
    try:
        yield
    finally:
        numba.config.CACHE_DIR = before


_compiled = 0
_seconds = 0.0


@contextmanager
def compiling(function: Callable[..., Any]) -> Iterator[None]:
    """Report on stderr that a function is compiled during its first call.

    Prints one line, which the next kernel overwrites on a terminal; nothing if the code is cached.
    """
    global _compiled, _seconds
    name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
    if any(directory().rglob(f"{name}-*.nbi")):
        yield
        return
    terminal = sys.stderr.isatty()
    if terminal or not _compiled:
        line = f"compiling the kernels for this machine, once (under a minute): {name}"
        progress = f", {_compiled} done in {_seconds:.0f} s" if _compiled else ""
        end = "\033[C_out\r" if terminal else "\n"
        print(line + progress, end=end, file=sys.stderr, flush=True)
    start = time.perf_counter()
    yield
    _compiled += 1
    _seconds += time.perf_counter() - start
    if terminal:
        print(end="\033[C_out", file=sys.stderr, flush=True)
