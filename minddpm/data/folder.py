"""A folder of images, of any size and format, as one data set."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from tqdm import tqdm

from minddpm.data.class_names import listing, natural_order, printable
from minddpm.data.dataset import ImageDataset
from minddpm.data.pixel_depth import Depths
from minddpm.errors import InputError


def load_folder(directory: str | os.PathLike, size: int, channels: int) -> ImageDataset:
    """Load every image below ``directory``, in the order of the sorted paths.

    An image is rotated upright (EXIF), scaled to 8 bits (by the rules in pixel_depth.py; the
    scale of deeper images is printed on stderr), composed on white if it is transparent, resized so
    that its short side is ``size`` (antialiased), and cropped at its centre. Names that begin with
    a dot are ignored; links are followed, except to a folder that contains the link. A file that is
    not a readable image of at most MAX_PIXELS (pixel_depth.py) is skipped and named on stderr.
    channels: 1 (grey) or 3 (RGB). Returns images uint8 ``[n, size, size, channels]``; a label is
    the index of the image's first-level sub-folder in natural order (1, 2, 10), and label_names
    are their names. A sub-folder without a readable image keeps its number, and is named on stderr.
    Both are None if any image has no sub-folder.
    Raises InputError if an argument is out of range, or there is no readable image.
    """
    directory = Path(directory)
    if channels not in (1, 3):
        raise InputError(f"channels={channels} is invalid: give 1 (grey) or 3 (RGB).")
    if size < 1:
        raise InputError(f"size={size} is invalid: give at least 1 pixel.")
    if not directory.is_dir():
        raise InputError(f"{directory} is not a folder: give the folder with the images.")

    paths = sorted(_files(directory, _containing(directory)))
    depths, arrays, skipped = Depths(), {}, 0
    for path in tqdm(paths, desc="images", disable=None):  # None: no bar in a log file
        try:
            image = depths.open(path)
            arrays[path] = None if image is None else _to_array(image, size, channels)
        except Exception as error:  # Pillow's readers raise many kinds on a damaged file
            tqdm.write(f"{path}: not a readable image, skipped ({error})", file=sys.stderr)
            skipped += 1
    deep = [path for path, array in arrays.items() if array is None]
    for path in tqdm(deep, desc="scaling", disable=None if deep else True):
        arrays[path] = _to_array(depths.scaled(path), size, channels)
    if skipped:
        print(f"{directory}: skipped {skipped} of {len(paths)} files", file=sys.stderr)
    for sentence in depths.notes():
        print(f"{directory}: {sentence}", file=sys.stderr)
    if not arrays:
        raise InputError(
            f"{directory} holds no readable image: give a folder with PNG, JPEG or other images."
        )
    labels, names = _labels(directory, list(arrays))
    source = f"{len(arrays):,} images in {directory}"
    return ImageDataset(np.stack(list(arrays.values())), labels, source, names)


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


def _to_array(image: Image.Image, size: int, channels: int) -> np.ndarray:
    # Every mode (palette, grey, CMYK, with alpha or not) becomes RGBA and is composed on white:
    # resizing first would mix the hidden colour of transparent pixels into the edges.
    image = image.convert("RGBA")
    white = Image.new("RGBA", image.size, "white")
    flat = Image.alpha_composite(white, image).convert("L" if channels == 1 else "RGB")
    square = ImageOps.fit(flat, (size, size), method=Image.Resampling.BICUBIC)
    return np.asarray(square).reshape(size, size, channels)


def _labels(directory: Path, paths: list[Path]) -> tuple[np.ndarray | None, tuple | None]:
    """Return the labels and the names of the classes, and report classes without an image."""
    parts = [path.relative_to(directory).parts for path in paths]
    if any(len(part) == 1 for part in parts):
        return None, None
    visible = [path for path in directory.iterdir() if not path.name.startswith(".")]
    folders = [path.name for path in visible if os.path.isdir(path)]
    numbers = {name: number for number, name in enumerate(natural_order(folders))}
    labels = np.array([numbers[part[0]] for part in parts], np.int64)
    names = tuple(map(printable, numbers))
    if empty := [names[i] for i in sorted(set(numbers.values()) - set(labels.tolist()))]:
        print(
            f"{directory}: no readable image of the classes {listing(empty)}; they keep their "
            "numbers, but cannot be learned",
            file=sys.stderr,
        )
    return labels, names
