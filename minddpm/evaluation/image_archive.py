"""Pictures from a file, checked before anything is computed from them."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from minddpm.data import to_uint8
from minddpm.errors import InputError

IMAGES, LABELS = "images", "labels"


def read_pictures(path: Path) -> tuple[np.ndarray, np.ndarray | None, str]:
    """The pictures of an .npz file, uint8 [n, H, W, C], their labels int64 [n] or None, and a note.

    'images' (or the only array of the file): [n, H, W] or [n, H, W, C], C 1 or 3; integers are
    pixels 0 .. 255, floats lie in [0, 1] or [-1, 1]: the note says which was assumed. 'labels':
    what each picture was meant to be.
    Raises InputError for anything else: another shape or range, NaN, no picture, no .npz file.
    """
    arrays = _read(path)
    name = IMAGES if IMAGES in arrays else next(iter(arrays), "")
    if not arrays or (name != IMAGES and len(arrays) > 1):
        raise InputError(
            f"{path} has the arrays {', '.join(arrays) or '(none)'}: save the pictures as "
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
        raise InputError(f"{path}: {name!r} of shape {images.shape} holds no picture: give some.")
    labels = arrays.get(LABELS)
    if labels is not None and (labels.shape != images.shape[:1] or labels.dtype.kind not in "iu"):
        raise InputError(
            f"{path}: {LABELS!r} is {labels.dtype} {labels.shape} for {len(images)} pictures: give "
            "one integer for each, or leave them out."
        )
    pixels, note = _pixels(images, f"{path}: {name!r}")
    return pixels, None if labels is None else labels.astype(np.int64), note


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as opened:  # NumPy would leave a torn one open
            file = np.load(opened, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise InputError(f"{path} is a single array: save it with np.savez as 'images'.")
            return {name: file[name] for name in file.files}
    except (EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(
            f"{path} is no whole .npz file ({error}): write it with np.savez."
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
        bad = (~np.isfinite(images)).sum()
        raise InputError(f"{name} has {bad} values that are no finite numbers: sample them anew.")
    low, high = float(images.min()), float(images.max())
    if low < -1 or high > 1:
        raise InputError(
            f"{name} holds floats {low:.4g} .. {high:.4g}: scale them to [-1, 1] or [0, 1], or "
            "give pixels as uint8."
        )
    if low >= 0:
        return to_uint8(2 * images - 1), "floats in [0, 1]"
    return to_uint8(images), "floats in [-1, 1]"
