"""CIFAR-10 in its binary version: five files of 10,000 training images and one of test images.

A record has 3,073 bytes: the label 0..9, then 1,024 pixels each of red, green and blue, row by row.
Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009.
"""

import tarfile
import zlib
from pathlib import Path

import numpy as np

from minddpm.data.dataset import ImageDataset
from minddpm.errors import InputError

ARCHIVE = "cifar-10-binary.tar.gz"
FILES = {
    "train": [f"data_batch_{i}.bin" for i in range(1, 6)],
    "test": ["test_batch.bin"],
}
CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip
SIDE = 32
RECORD = 1 + 3 * SIDE * SIDE
MAX_BYTES = 10_000 * RECORD  # of a file


def has_cifar(folder: Path) -> bool:
    """Return whether a folder has the archive or all binary files."""
    names = [*FILES["train"], *FILES["test"]]
    return (folder / ARCHIVE).is_file() or all((folder / name).is_file() for name in names)


def read_cifar(folder: Path, splits: tuple[str, ...]) -> ImageDataset:
    """Read the binary files of "train" or "test" in a folder, or from the archive in it.

    Raises InputError for a missing or damaged file.
    """
    names = [name for split in splits for name in FILES[split]]
    unpacked = all((folder / name).is_file() for name in names)
    contents = [(folder / n).read_bytes() for n in names] if unpacked else _from_tar(folder, names)
    for name, content in zip(names, contents, strict=True):
        if not content or len(content) % RECORD or len(content) > MAX_BYTES:
            raise InputError(
                f"{folder}: {name} has {len(content):,} bytes, and not {RECORD:,} for each of at "
                "most 10,000 images: fetch CIFAR-10's binary version again."
            )
    records = np.frombuffer(b"".join(contents), np.uint8).reshape(-1, RECORD)
    labels = records[:, 0].astype(np.int64)
    if labels.max() >= len(CLASSES):
        raise InputError(
            f"{folder} has the label {labels.max()}, and CIFAR-10's are 0 .. 9: fetch its binary "
            "version again."
        )
    images = records[:, 1:].reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
    source = f"CIFAR-10 {' + '.join(splits)}, {len(labels):,} images from {folder}"
    return ImageDataset(np.ascontiguousarray(images), labels, source, CLASSES)


def _from_tar(folder: Path, names: list[str]) -> list[bytes]:
    """Return the contents of the named files in the archive, without unpacking it."""
    path, found = folder / ARCHIVE, {}
    if not path.is_file():
        missing = [name for name in names if not (folder / name).is_file()]
        raise InputError(
            f"{folder} holds neither {ARCHIVE} nor {', '.join(missing)}: put CIFAR-10's binary "
            "version there."
        )
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                name = member.name.rpartition("/")[2]
                if member.isfile() and name in names:
                    found[name] = archive.extractfile(member).read(MAX_BYTES + 1)
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}): delete it and fetch it again.") from error
    if missing := [name for name in names if name not in found]:
        raise InputError(
            f"{path} lacks {', '.join(missing)}: fetch CIFAR-10's binary version again."
        )
    return [found[name] for name in names]
