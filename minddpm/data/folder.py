"""A folder or .zip archive of images, of any size and format, as one data set."""

import io
import os
import sys
from pathlib import Path

import numpy as np

from minddpm.data.dataset import ImageDataset
from minddpm.data.decode import FEW, decode
from minddpm.data.fit import Size, check_fit
from minddpm.data.image_cache import stored_pixels
from minddpm.data.image_files import ImageFiles
from minddpm.errors import InputError


def load_folder(
    directory: str | os.PathLike, size: int | Size, channels: int | None = None
) -> ImageDataset:
    """Load every image below ``directory``, in the order of the sorted paths.

    An image is rotated upright (EXIF), scaled to 8 bits (by the rules in pixel_depth.py; the
    scale of deeper images is printed on stderr), composed on white if it is transparent, resized
    (antialiased) so that it covers ``size``, and cropped at its centre. Names that begin with
    a dot are ignored; links are followed, except to a folder that contains the link. A file that is
    not a readable image of at most MAX_PIXELS (pixel_depth.py) is skipped and named on stderr.
    size: (height, width), or one number for both. channels: 1 (grey), 3 (RGB) or None: 3 if any
    image has colour. Returns images uint8 ``[n, H, W, channels]``; a label is
    the index of the image's first-level sub-folder in natural order (1, 2, 10), and label_names
    are their names. A sub-folder without a readable image keeps its number, and is named on stderr.
    Both are None if any image has no sub-folder. A dataset.json (image_files.py) replaces them.
    Raises InputError if an argument is out of range, or there is no readable image.
    """
    size = (size, size) if isinstance(size, int) else size
    check_fit(size, channels)
    if not Path(directory).is_dir():
        raise InputError(f"{directory} is not a folder: give the folder with the images.")
    return _in_memory(ImageFiles(directory), size, channels)


def load_image_files(
    place: str | os.PathLike, size: Size, channels: int | None = None
) -> ImageDataset:
    """Load a folder or a .zip as load_folder does, but keep the pixels of many files on disk.

    Those of more than FEW files (decode.py) are decoded by several processes, into the cache. What
    is read from it again is not described again, except for how many files were skipped.
    """
    check_fit(size, channels)
    files = ImageFiles(place)
    if len(files.names) <= FEW:
        return _in_memory(files, size, channels)
    stored = stored_pixels(files, size, channels)
    return _dataset(
        files, stored.names, stored.images, mapping=stored.mapping, checksum=stored.checksum
    )


def _in_memory(files: ImageFiles, size: Size, channels: int | None) -> ImageDataset:
    out = io.BytesIO()
    found = decode(files, size, channels, out)
    images = np.frombuffer(out.getbuffer(), np.uint8).reshape(len(found.names), *size, -1)
    return _dataset(files, found.names, np.ascontiguousarray(images[..., : found.channels]))


def _dataset(files: ImageFiles, names: list[str], images: np.ndarray, **on_disk) -> ImageDataset:
    if skipped := len(files.names) - len(names):
        print(f"{files.place}: skipped {skipped} of {len(files.names)} files", file=sys.stderr)
    labels, label_names = files.classes(names)
    source = f"{len(names):,} images in {files.place}"
    return ImageDataset(images, labels, source, label_names, **on_disk)
