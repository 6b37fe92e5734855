"""Images from what `--data` names: a data set, a folder, a .zip archive or an .npz file."""

import os
import zipfile
from pathlib import Path

from minddpm.data.dataset import ImageDataset
from minddpm.data.fit import Size, fit
from minddpm.data.folder import load_image_files
from minddpm.data.image_archive import read_images
from minddpm.data.named import NAMES, load_named
from minddpm.errors import InputError

FOLDER_SIZE = (28, 28)  # of images from files, if no size is given: these may all differ


def load_images(
    data: str | os.PathLike,
    size: Size | None = None,
    channels: int | None = None,
    data_dir: str | os.PathLike | None = None,
) -> ImageDataset:
    """Load the training images of a data set in NAMES, or those in a folder, .zip or .npz.

    size: (height, width); None: what the images have, or FOLDER_SIZE for image files. channels: 1
    or 3; None: what the images have. data_dir: the folder with the files of a named data set.
    Raises InputError if there is no such data, or it is damaged.
    """
    if data in NAMES:
        return fit(load_named(str(data), data_dir), size, channels)
    path = Path(data)
    if path.is_dir():
        return load_image_files(path, size or FOLDER_SIZE, channels)
    if not path.is_file():
        raise InputError(
            f"{data} does not exist: give {', '.join(NAMES)}, a folder of images, or a .zip or "
            ".npz file."
        )
    if path.suffix.lower() == ".npz":
        images, labels, note = read_images(path)
        return fit(ImageDataset(images, labels, f"{path} ({note})"), size, channels)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is neither a folder nor a .zip or .npz file: give one of these.")
    return load_image_files(path, size or FOLDER_SIZE, channels)
