"""Data sets called by their names: MNIST, and others that are downloaded from their authors.

The lengths and SHA-256 are those that tensorflow-datasets 4.9.10 publishes (url_checksums/).
docs/own-images.md lists the licences.
"""

import os
from pathlib import Path
from typing import NamedTuple

from minddpm.data.cifar import has_cifar, read_cifar
from minddpm.data.dataset import ImageDataset
from minddpm.data.download import DownloadError
from minddpm.data.fetch import Remote, fetch
from minddpm.data.mnist import STEMS, find_idx, load_idx_folder, load_mnist
from minddpm.errors import InputError
from minddpm.storage.cache_folder import cache_home


class _Named(NamedTuple):
    title: str
    files: tuple[Remote, ...]
    classes: tuple[str, ...]


def _idx_files(place: str, hashes: dict[str, tuple[int, str]]) -> tuple[Remote, ...]:
    return tuple(Remote(f"{place}{stem}.gz", *rest) for stem, rest in hashes.items())


_FASHION = _idx_files(
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        "train-images-idx3-ubyte": (
            26421880, "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
        ),
        "train-labels-idx1-ubyte": (
            29515, "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
        ),
        "t10k-images-idx3-ubyte": (
            4422102, "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
        ),
        "t10k-labels-idx1-ubyte": (
            5148, "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
        ),
    },
)  # fmt: skip
_KMNIST = _idx_files(
    "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    {
        "train-images-idx3-ubyte": (
            18165135, "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"
        ),
        "train-labels-idx1-ubyte": (
            29497, "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"
        ),
        "t10k-images-idx3-ubyte": (
            3041136, "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"
        ),
        "t10k-labels-idx1-ubyte": (
            5120, "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"
        ),
    },
)  # fmt: skip
_CIFAR = Remote(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    170052171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)
_CLOTHES = (
    "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
_KANA = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")
_SETS = {
    "fashion-mnist": _Named("Fashion-MNIST", _FASHION, _CLOTHES),
    "kmnist": _Named("KMNIST", _KMNIST, _KANA),
    "cifar10": _Named("CIFAR-10", (_CIFAR,), ()),
}
NAMES = ("mnist", *_SETS)
GREY_28 = ("mnist", "fashion-mnist", "kmnist")  # those of grey images of 28 x 28


def load_named(
    name: str, data_dir: str | os.PathLike | None = None, split: str = "train"
) -> ImageDataset:
    """Load one of NAMES: from data_dir, or else from the user's cache, or else by a download.

    MNIST is loaded as load_mnist does. Raises InputError if no source has the data.
    """
    if name == "mnist":
        return load_mnist(data_dir, split)
    if split not in STEMS:
        raise InputError(f'split {split!r} is unknown: give "train" or "test".')
    known = _SETS[name]
    folder = Path(os.path.expanduser(data_dir)) if data_dir else cache_home() / name
    if not data_dir and not (name == "cifar10" and has_cifar(folder)):
        _complete(known, folder)
    if name == "cifar10":
        return read_cifar(folder, (split,))
    return load_idx_folder(folder, (split,), known.title, known.classes)


def _complete(known: _Named, folder: Path) -> None:
    """Download what the folder lacks."""
    for remote in known.files:
        if find_idx(folder, remote.name.removesuffix(".gz")):
            continue
        try:
            fetch(remote, folder)
        except DownloadError as error:
            names = ", ".join(file.name for file in known.files)
            raise InputError(
                f"{known.title} is not on this machine ({error}): put {names} into {folder}, or "
                "name the folder that has them with --data-dir."
            ) from error
