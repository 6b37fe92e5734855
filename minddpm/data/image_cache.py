"""The decoded pixels of a folder on disk: decoded once, then read where they lie.

<key>.pixels holds uint8 [n, H, W, C], and <key>.json the shape, a checksum and the names of the
files. The key depends on the names and stamps of all files, the size and the channels, so a changed
folder is decoded again. Any of these files may be deleted.
"""

import hashlib
import json
import mmap
import tempfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from minddpm.data.decode import decode
from minddpm.data.fit import Size, size_option
from minddpm.data.image_files import ImageFiles
from minddpm.errors import InputError
from minddpm.storage.atomic import atomic_write
from minddpm.storage.cache_folder import cache_directory
from minddpm.storage.json_files import write_json

VERSION = 1  # of the rules by which images are decoded: another number decodes them again
CHUNK = 1 << 24  # bytes


class Stored(NamedTuple):
    """Pixels uint8 [n, H, W, C] in a mapped file, their checksum and the names of their files."""

    images: np.ndarray
    mapping: mmap.mmap
    checksum: int
    names: list[str]


def stored_pixels(files: ImageFiles, size: Size, channels: int | None) -> Stored:
    """Return the pixels of image files from the cache, after decoding them if it lacks them.

    channels: None for those of the images. Raises InputError as `decode` does.
    """
    folder = cache_directory("images")
    # None last: a resumed run gives the channels that the images turned out to have.
    for asked in (channels, None):
        found = _open(folder / _key(files, size, asked), files)
        if found is not None and channels in (None, found.images.shape[3]):
            return found
    base = folder / _key(files, size, channels)
    _write(base, files, size, channels)
    found = _open(base, files)
    if found is None:
        raise InputError(f"{base}.pixels was changed by another program: run the command again.")
    return found


def _key(files: ImageFiles, size: Size, channels: int | None) -> str:
    digest = hashlib.sha256(f"{VERSION} {size_option(size)} {channels}".encode())
    for name, stamp in zip(files.names, files.stamps, strict=True):
        digest.update(f"\0{name}\0{stamp}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


def _open(base: Path, files: ImageFiles) -> Stored | None:
    """Return what is stored, None if it is absent or incomplete; base: without a suffix."""
    try:
        stated = json.loads(base.with_suffix(".json").read_bytes())
        shape, checksum = tuple(stated["shape"]), int(stated["checksum"])
        names = [files.names[i] for i in stated["files"]]
        with base.with_suffix(".pixels").open("rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        images = np.frombuffer(mapping, np.uint8).reshape(shape)
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return Stored(images, mapping, checksum, names) if len(names) == len(images) else None


def _write(base: Path, files: ImageFiles, size: Size, channels: int | None) -> None:
    pixels, checksum = base.with_suffix(".pixels"), 0
    # Nobody else sees this file: two processes may decode the same folder at once.
    with tempfile.TemporaryFile(dir=pixels.parent) as decoded, atomic_write(pixels) as file:
        found = decode(files, size, channels, decoded)
        every = 3 if channels is None and found.channels == 1 else 1  # of three equal channels
        decoded.seek(0)
        while chunk := decoded.read(3 * CHUNK)[::every]:
            checksum = zlib.crc32(chunk, checksum)
            file.write(chunk)
    number = {name: i for i, name in enumerate(files.names)}
    shape = (len(found.names), *size, found.channels)
    numbers = [number[name] for name in found.names]
    write_json(base.with_suffix(".json"), {"shape": shape, "checksum": checksum, "files": numbers})
