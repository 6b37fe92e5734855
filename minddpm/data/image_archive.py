"""Read images from an .npz file and check them before any computation."""

import zipfile
from pathlib import Path

import numpy as np

from minddpm.data.class_names import MAX_CLASSES
from minddpm.data.dataset import to_uint8
from minddpm.errors import InputError

IMAGES, LABELS = "images", "labels"
IMAGE_NAMES, LABEL_NAMES = (IMAGES, "x_train", "x"), (LABELS, "y_train", "y")
MAX_BYTES = 2**30  # of the arrays that are read: 1.3 million digits of uint8


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Return images uint8 [n, H, W, C], labels int64 [n] or None, and the assumed range as text.

    The file holds 'images' (or 'x_train', 'x', or one array of any name), [n, H, W] or
    [n, H, W, C] with C 1 or 3: integers in 0 .. 255, or floats in [0, 1] or [-1, 1]; and
    optionally 'labels' (or 'y_train', 'y'), the class of each image.
    Raises InputError for another shape or range, NaN, no images, more than MAX_CLASSES, arrays of
    more than MAX_BYTES, or a file that is no .npz.
    """
    name, images, label_name, labels = _read(path)
    if labels is not None and labels.shape == (len(images), 1):  # as Keras stores CIFAR-10's
        labels = labels[:, 0]
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[3] not in (1, 3):
        raise InputError(
            f"{path}: {name!r} has the shape {images.shape}: give [n, H, W], or [n, H, W, C] with "
            "C 1 or 3."
        )
    if images.size == 0:
        raise InputError(
            f"{path}: {name!r} of shape {images.shape} holds no image: give at least one."
        )
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
        raise InputError(
            f"{path}: {label_name!r} is {labels.dtype} {labels.shape} for {len(images)} images: "
            "give one integer for each, or leave them out."
        )
    if labels is not None and labels.max() >= MAX_CLASSES:
        raise InputError(
            f"{path}: {label_name!r} has the label {labels.max()}: number the classes from 0 to "
            f"{MAX_CLASSES - 1} at most."
        )
    pixels, note = _pixels(images, f"{path}: {name!r}")
    return pixels, None if labels is None else labels.astype(np.int64), note


def _read(path: Path) -> tuple[str, np.ndarray, str | None, np.ndarray | None]:
    """Return the name of the array of images and this array, then those of the labels."""
    with path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
            members = {i.filename.removesuffix(".npy"): i for i in archive.infolist()}
            name, label_name = _choose(members, path)
            images = _array(archive, members[name])
            labels = _array(archive, members[label_name]) if label_name else None
        except InputError:
            raise
        except Exception as error:  # zipfile and NumPy raise many kinds on a damaged file
            raise InputError(
                f"{path} is not a complete .npz file ({error}): write it with np.savez(file, "
                f"{IMAGES}=...)."
            ) from error
    return name, images, label_name, labels


def _choose(members: dict[str, zipfile.ZipInfo], path: Path) -> tuple[str, str | None]:
    """Return the names of images and labels, after checking the sizes of what will be read."""
    known = next((name for name in IMAGE_NAMES if name in members), None)
    labels = next((name for name in LABEL_NAMES if name in members), None)
    name = known or next(iter(members), "")
    if not members or (known is None and len(members) > 1):
        raise InputError(
            f"{path} has the arrays {', '.join(members) or '(none)'}: save the images as "
            f"np.savez(file, {IMAGES}=...)."
        )
    # A compressed file may hold a thousand times its own size.
    size = sum(members[n].file_size for n in {name, labels} - {None})
    if size > MAX_BYTES:
        raise InputError(
            f"{path} holds arrays of {size:,} bytes, and at most {MAX_BYTES:,} are read: save "
            "fewer images, or save them as uint8."
        )
    return name, labels


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _pixels(images: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    if images.dtype.kind in "iu":
        low, high = int(images.min()), int(images.max())
        if low < 0 or high > 255:
            raise InputError(f"{name} holds integers {low} .. {high}: give pixels 0 .. 255.")
        return images.astype(np.uint8), "integers in 0 .. 255"
    if images.dtype.kind != "f":
        raise InputError(f"{name} is {images.dtype}: give uint8, or floats in [-1, 1].")
    if not np.isfinite(images).all():
        count = (~np.isfinite(images)).sum()
        raise InputError(f"{name} has {count} values that are not finite: generate them again.")
    low, high = float(images.min()), float(images.max())
    if low < -1 or high > 1:
        raise InputError(
            f"{name} holds floats {low:.4g} .. {high:.4g}: scale them to [-1, 1] or [0, 1], or "
            "give pixels as uint8."
        )
    if low >= 0:
        return to_uint8(2 * images - 1), "floats in [0, 1]"
    return to_uint8(images), "floats in [-1, 1]"
