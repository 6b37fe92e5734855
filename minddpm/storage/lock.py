"""One process at a time in a directory, so that two runs cannot overwrite each other's files."""

import os
from pathlib import Path
from weakref import WeakValueDictionary

from minddpm.errors import InputError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None


class Lock:
    """A directory that this process has locked, as long as the object exists."""

    def __init__(self, fd: int):
        self._fd = fd

    def __del__(self) -> None:
        os.close(self._fd)


# (device, inode) of the directory -> its lock: one process may lock a directory several times.
_held: WeakValueDictionary[tuple[int, int], Lock] = WeakValueDictionary()


def lock(directory: Path, wait: bool = False) -> Lock | None:
    """Lock an existing directory until the returned object is deleted or the process ends.

    The directory itself is locked, so that no file is left in it; the operating system releases
    the lock even if the process is killed. Returns None if there are no locks: on Windows, or on a
    file system without them.
    wait: until another process has released it. Else raises InputError if one has locked it.
    """
    if fcntl is None:
        return None
    try:
        fd = os.open(directory, os.O_RDONLY)
    except OSError:
        return None
    new, status = Lock(fd), os.fstat(fd)
    key = status.st_dev, status.st_ino
    if key in _held:
        return _held[key]
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise InputError(
            f"another process is training in {directory}: wait until it has ended, or choose "
            "another --out."
        ) from error
    except OSError:
        return None
    _held[key] = new
    return new
