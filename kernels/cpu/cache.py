"""The cache of compiled code: one directory for each version of the sources.

Numba notices a change in the file of a compiled function, but not in a kernel or constant that the
function imports from another file, and it would load code for another vector length. So the name of
the directory is a fingerprint of all these files, the vector length and the CPU.

Files that are damaged are compiled anew; where files cannot be written, the code is not kept.
"""

import hashlib
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
from numba.core import caching

from minddpm.kernels.cpu.vector.instructions import LANES
from minddpm.storage.cache_folder import cache_directory, cache_home


@cache
def directory() -> Path:
    """Return the cache directory of these sources on this machine, created in a writable place."""
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in sources))
    digest.update(f"{llvm.get_host_cpu_name()} {numba.__version__}".encode())
    folder = cache_directory("numba", f"{digest.hexdigest()[:16]}-{LANES}")
    if not folder.is_relative_to(cache_home()):
        _not_kept("it cannot be written")
    return folder


@contextmanager
def own_cache() -> Iterator[None]:
    """Make functions defined in the block with cache=True store their code in directory()."""
    before = numba.config.CACHE_DIR, caching.IndexDataCacheFile
    numba.config.CACHE_DIR, caching.IndexDataCacheFile = str(directory()), _CheckedFiles
    try:
        yield
    finally:
        numba.config.CACHE_DIR, caching.IndexDataCacheFile = before


class _CheckedFiles(caching.IndexDataCacheFile):
    """Numba's files of one function's code, each with a checksum at its end.

    Numba itself fails on a damaged file, such as the empty one that a power cut leaves, and on a
    full disk; and it would run code in which a bit has changed.
    """

    def load(self, key: Any) -> Any:
        try:
            return super().load(key)
        except Exception:  # pickle fails on damaged bytes in any way
            return None  # Numba compiles, and calls save

    def save(self, key: Any, data: Any) -> None:
        try:
            try:
                super().save(key, data)
            except OSError:
                raise
            except Exception:  # a damaged index
                self.flush()
                super().save(key, data)
        except OSError as error:
            _not_kept(error.strerror)

    def _dump(self, value: Any) -> bytes:
        data = super()._dump(value)
        return data + _checksum(data)

    def _load_data(self, name: str) -> Any:
        data = Path(self._data_path(name)).read_bytes()
        if _checksum(data[:-4]) != data[-4:]:
            raise ValueError(f"{name} is damaged")
        return super()._load_data(name)


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "big")


@cache
def _not_kept(reason: str) -> None:
    """Say once that the code cannot be kept."""
    print(
        f"the compiled kernels are not kept in {cache_home()} ({reason}): the next run compiles "
        "them again, unless XDG_CACHE_HOME names another folder",
        file=sys.stderr,
    )


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
        end = "\033[K\r" if terminal else "\n"
        print(line + progress, end=end, file=sys.stderr, flush=True)
    start = time.perf_counter()
    yield
    _compiled += 1
    _seconds += time.perf_counter() - start
    if terminal:
        print(end="\033[K", file=sys.stderr, flush=True)
