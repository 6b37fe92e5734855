"""Read images from an .npz file and check them before any computation."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from minddpm.data import to_uint8
from minddpm.errors import InputError

IMAGES, LABELS = "images", "labels"


def read_images(path: Path) -> tuple[np.ndarray, np.ndarray | None, str]:
    """Return images uint8 [n, H, W, C], labels int64 [n] or None, and the assumed range as text.

    The file holds 'images' (or one array of any name), [n, H, W] or [n, H, W, C] with C 1 or 3:
    integers in 0 .. 255, or floats in [0, 1] or [-1, 1]; and optionally 'labels', the intended
    class of each image.
    Raises InputError for another shape or range, NaN, no images, or a file that is no .npz.
    """
    arrays = _read(path)
    name = IMAGES if IMAGES in arrays else next(iter(arrays), "")
    if not arrays or (name != IMAGES and len(arrays) > 1):
        raise InputError(
            f"{path} has the arrays {', '.join(arrays) or '(none)'}: save the images as "
            f"np.savez(file, {IMAGES}=...)."
        )
    images = arrays[name]
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
    labels = arrays.get(LABELS)
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
        raise InputError(
            f"{path}: {LABELS!r} is {labels.dtype} {labels.shape} for {len(images)} images: give "
            "one integer for each, or leave them out."
        )
    pixels, note = _pixels(images, f"{path}: {name!r}")
    return pixels, None if labels is None else labels.astype(np.int64), note


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as opened:  # NumPy would not close a damaged file
            file = np.load(opened, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise InputError(f"{path} is a single array: save it with np.savez as 'images'.")
            return {name: file[name] for name in file.files}
    except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} is not a complete .npz file ({error}): write it with np.savez."
        ) from error


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
