"""A small tmpfs, which can be filled and emptied."""

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

MEGABYTES = 40  # a training refuses to start with less than 20 MB


class SmallDisk:
    """A disk that is mounted at `path`."""

    def __init__(self, path: Path):
        self.path = path

    def fill(self) -> None:
        """Write a file until no space is left."""
        with (
            contextlib.suppress(OSError),
            open(self.path / "filler", "wb", buffering=0) as file,
        ):
            while True:
                file.write(bytes(4096))

    def empty(self) -> None:
        """Remove the file that fill() wrote."""
        (self.path / "filler").unlink()


@contextlib.contextmanager
def small_disk() -> Iterator[SmallDisk | None]:
    """Mount a tmpfs during the block; None if this user may not mount."""
    with tempfile.TemporaryDirectory() as folder:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", folder]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            yield None
            return
        try:
            yield SmallDisk(Path(folder))
        finally:
            subprocess.run(["umount", folder], check=True)
