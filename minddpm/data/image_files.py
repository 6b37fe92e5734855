"""The image files of a folder or a .zip archive: their names, contents and classes.

The classes are the first-level folders, unless a file `dataset.json` at the top states them, as
NVIDIA's tools write it: {"labels": [["00000/img00000000.png", 6], ...]}, or {"labels": null}.
"""

import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from minddpm.data.class_names import MAX_CLASSES, listing, natural_order, printable
from minddpm.errors import InputError

LABELS_FILE = "dataset.json"
MAX_FILE = 2**28  # bytes of a file in an archive: a small archive may hold far more
Classes = tuple[np.ndarray | None, tuple[str, ...] | None]  # labels and their names


def open_file(place: Path, name: str) -> Path | BinaryIO:
    """Return what Pillow opens: the path of a file in a folder, or the bytes of one in a .zip."""
    if place.is_dir():
        return place / name
    archive = _archive(place)
    if archive.getinfo(name).file_size > MAX_FILE:
        raise ValueError(f"it has more than {MAX_FILE:,} bytes")
    return io.BytesIO(archive.read(name))


@lru_cache(maxsize=1)
def _archive(place: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(place)
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(
            f"{place} is not a complete .zip archive ({error}): give a folder, or a .zip of images."
        ) from error


class ImageFiles:
    """The files below `place`, a folder or a .zip, with names relative to it, sorted by path.

    Names that begin with a dot are ignored; links are followed, except to a folder that contains
    the link. stamps: what changes when the content of a file does.
    Raises InputError if `place` is neither.
    """

    def __init__(self, place: str | os.PathLike):
        self.place = Path(place)
        _archive.cache_clear()  # a file of this name may have been written since
        found = self._in_folder() if self.place.is_dir() else self._in_archive()
        found.pop(self._outer + LABELS_FILE, None)
        self.names = sorted(found, key=lambda name: Path(name).parts)
        self.stamps = [found[name] for name in self.names]

    def _in_folder(self) -> dict[str, str]:
        found = {}
        for path in _files(self.place, _containing(self.place)):
            name = path.relative_to(self.place).as_posix()
            try:
                # The time of the change of the inode cannot be set, unlike that of the content.
                stat = path.stat()
                found[name] = f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
            except OSError:  # a broken link, which is named when it is opened
                found[name] = ""
        folders = [path for path in self.place.iterdir() if not path.name.startswith(".")]
        self._folders = [path.name for path in folders if os.path.isdir(path)]
        self._outer = ""
        return found

    def _in_archive(self) -> dict[str, str]:
        found = {
            info.filename: f"{info.file_size} {info.CRC}"
            for info in _archive(self.place).infolist()
            if not info.is_dir() and not _is_hidden(info.filename)
        }
        # Archives often have one folder around everything: it is no class.
        images = [name for name in found if _may_be_an_image(name)] or list(found)
        tops = {name.partition("/")[0] for name in images}
        outer = f"{tops.pop()}/" if len(tops) == 1 else ""
        nested = all(name.count("/") >= 2 for name in images)
        self._outer = outer if nested or outer + LABELS_FILE in found else ""
        inner = [name.removeprefix(self._outer) for name in found]
        self._folders = list({name.partition("/")[0] for name in inner if "/" in name})
        return found

    def classes(self, names: list[str]) -> Classes:
        """Return the labels of these files and the names of the classes; None without classes.

        Reports classes without a file on stderr. Raises InputError for a damaged dataset.json.
        """
        inner = [name.removeprefix(self._outer) for name in names]
        stated = self._stated_labels()
        if stated is not None:
            return _look_up(inner, stated, self.place)
        if any("/" not in name for name in inner):
            return None, None
        numbers = {name: number for number, name in enumerate(natural_order(self._folders))}
        labels = np.array([numbers[name.partition("/")[0]] for name in inner], np.int64)
        words = tuple(map(printable, numbers))
        if empty := [words[i] for i in sorted(set(numbers.values()) - set(labels.tolist()))]:
            print(
                f"{self.place}: no readable image of the classes {listing(empty)}; they keep their "
                "numbers, but cannot be learned",
                file=sys.stderr,
            )
        return labels, words

    def _stated_labels(self) -> dict[str, int] | None:
        """Return the labels in dataset.json, {} if it states that there are none."""
        file = None
        try:
            if self.place.is_dir():
                path = self.place / LABELS_FILE
                file = path.read_bytes() if path.is_file() else None
            elif self._outer + LABELS_FILE in _archive(self.place).namelist():
                file = open_file(self.place, self._outer + LABELS_FILE).read()
            if file is None:
                return None
            stated = dict(json.loads(file)["labels"] or [])
            if not all(type(k) is str and type(v) is int for k, v in stated.items()):
                raise ValueError("a label is not an integer")
            if not all(0 <= label < MAX_CLASSES for label in stated.values()):
                raise ValueError(f"a label is not from 0 to {MAX_CLASSES - 1}")
        except Exception as error:  # zipfile, its decompressors and json raise many kinds
            raise InputError(
                f"{self.place}: {LABELS_FILE} has no labels of the form "
                f'{{"labels": [["a.png", 0], ...]}} ({error}): correct it, or remove it.'
            ) from error
        return stated


def _look_up(names: list[str], stated: dict[str, int], place: Path) -> Classes:
    if not stated:
        return None, None
    if missing := [name for name in names if name not in stated]:
        raise InputError(
            f"{place}: {LABELS_FILE} states no label for {len(missing)} of {len(names)} images, "
            f"such as {missing[0]}: add them, or remove the file."
        )
    return np.array([stated[name] for name in names], np.int64), None


def _may_be_an_image(name: str) -> bool:
    Image.init()
    return Path(name).suffix.lower() in Image.EXTENSION


def _is_hidden(name: str) -> bool:
    """Return whether a part of the name begins with a dot, or is what macOS adds to archives."""
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _files(folder: Path, above: set[Path]) -> Iterator[Path]:
    """Yield the files below a folder, links included; above: the real paths that contain it."""
    real = folder.resolve()
    if real in above:
        print(f"{folder}: a link to a folder that contains it, skipped", file=sys.stderr)
        return
    try:
        entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        print(f"{folder}: not a readable folder, skipped ({error.strerror})", file=sys.stderr)
        return
    for path in entries:
        if os.path.isdir(path):  # unlike Path.is_dir, it is False where access is denied
            yield from _files(path, above | _containing(folder) | {real})
        elif os.path.isfile(path) or not os.path.exists(path):  # opening names a broken link
            yield path


def _containing(folder: Path) -> set[Path]:
    return set(folder.resolve().parents)
