"""A set of images, and the maps between pixels and the network's range."""

import mmap
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from minddpm.data.class_names import listing
from minddpm.errors import InputError


@dataclass(frozen=True, eq=False)  # no __eq__: "array == array" is not one boolean
class ImageDataset:
    """Images with their classes, on the host.

    images: uint8 ``[n, H, W, C]`` in 0..255, n >= 1, C 1 (grey) or 3 (RGB).
    labels: int64 ``[n]``, each >= 0, or None if the images have no classes.
    source: one line about the origin of the images, for logs and ``run.json``.
    label_names: the name of each class, or None. A class may have no image.
    mapping: the file in which the images lie, if they are not in memory. checksum: of the images,
    if it is known.
    Raises InputError if an array has another type or shape, or names do not fit the labels.
    """

    images: np.ndarray
    labels: np.ndarray | None
    source: str
    label_names: tuple[str, ...] | None = None
    mapping: mmap.mmap | None = None
    checksum: int | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not _is_array(images, np.uint8, ndim=4) or images.shape[3] not in (1, 3):
            raise InputError(
                f"{self.source}: the images are {_describe(images)}; give uint8 [n, H, W, C] with "
                "C 1 or 3."
            )
        if images.size == 0:
            raise InputError(f"{self.source}: there is no image in {images.shape}; give some.")
        if labels is None:
            if self.label_names is not None:
                raise InputError(f"{self.source}: there are label_names but no labels; give both.")
            return
        if not _is_array(labels, np.int64, ndim=1):
            raise InputError(
                f"{self.source}: the labels are {_describe(labels)}; give int64 [n], or None."
            )
        if len(labels) != len(images):
            raise InputError(
                f"{self.source}: there are {len(images)} images but {len(labels)} labels; give "
                "the two files that belong together."
            )
        if labels.min() < 0:
            raise InputError(
                f"{self.source}: label {labels.min()} is negative; number the classes from 0."
            )
        names = self.label_names
        if names is not None and (len(set(names)) != len(names) or len(names) <= labels.max()):
            raise InputError(
                f"{self.source}: the label_names are {listing(names)} for labels up to "
                f"{labels.max()}; give each class a name of its own."
            )

    def __len__(self) -> int:
        return len(self.images)

    def pixels(self, chosen: np.ndarray) -> np.ndarray:
        """Return a copy of the images with these indices, uint8 [len(chosen), H, W, C]."""
        copies = self.images[chosen]
        if self.mapping is not None and hasattr(mmap, "MADV_DONTNEED"):
            # Else the process would come to hold every page of the file that it ever read; they
            # remain in the system's cache of files, which gives memory back when it is needed.
            self.mapping.madvise(mmap.MADV_DONTNEED)
        return copies

    @property
    def num_classes(self) -> int:
        """The number of classes; 0 if the images have none."""
        if self.labels is None:
            return 0
        return int(self.labels.max()) + 1 if self.label_names is None else len(self.label_names)

    def describe_classes(self) -> str:
        """Return the number of classes, and the name and the number of images of each, as text."""
        counts = np.bincount(self.labels, minlength=self.num_classes).tolist()
        names = self.label_names or map(str, range(self.num_classes))
        words = [f"{name} ({count:,})" for name, count in zip(names, counts, strict=True)]
        return f"{self.num_classes} classes: {listing(words)}"

    def identity(self) -> dict[str, Any]:
        """Return the entries that identify this data in run.json.

        They are source, count and checksum and, of images with classes, the labels' checksum and
        the names of the classes.
        """
        of_images = _checksum(self.images) if self.checksum is None else self.checksum
        entries = {"source": self.source, "images": len(self), "checksum": of_images}
        if self.labels is not None:
            names = None if self.label_names is None else list(self.label_names)
            entries |= {"label_checksum": _checksum(self.labels), "label_names": names}
        return entries


def to_float(images: np.ndarray) -> np.ndarray:
    """Map pixels to the network's range: 0..255 -> [0, 1] -> [-1, 1].

    images: uint8, any shape. Returns float32 of the same shape; 0 becomes -1, 255 becomes 1.
    Raises InputError if the images are not uint8.
    Source: Ho et al. 2020, section 3.3.
    """
    if not _is_array(images, np.uint8):
        raise InputError(f"to_float got {_describe(images)}; give it pixels, as uint8.")
    # The lecture slides use [0, 1], but the decoder of Ho et al. (eq. 13) has its end bins at ±1.
    unit = images.astype(np.float32) / np.float32(255)
    return 2 * unit - 1


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Map the network's range back to pixels: the inverse of to_float.

    images: floats, any shape; values outside [-1, 1] are clipped, as samples may overshoot.
    Returns uint8 of the same shape, rounded to the nearest pixel value.
    Raises InputError if the images are not floats, or hold a NaN.
    """
    if not _is_array(images, np.floating):
        raise InputError(f"to_uint8 got {_describe(images)}; give it floats in [-1, 1].")
    if np.isnan(images).any():
        raise InputError(
            f"to_uint8 got NaN in {np.isnan(images).sum()} of {images.size} values, so the model "
            "or the sampler diverged; lower the learning rate or use an earlier checkpoint."
        )
    unit = (np.clip(images.astype(np.float32), -1, 1) + 1) / 2
    # Rounding, not truncation: to_uint8(to_float(x)) must return all 256 values unchanged.
    return np.rint(unit * 255).astype(np.uint8)


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array))


def _is_array(value: object, dtype: type, ndim: int | None = None) -> bool:
    return (
        isinstance(value, np.ndarray)
        and np.issubdtype(value.dtype, dtype)
        and ndim in (None, value.ndim)
    )


def _describe(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return type(value).__name__
