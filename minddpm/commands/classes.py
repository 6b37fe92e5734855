"""The classes of a class-conditional model in the commands: --label, grids, the same classes."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from minddpm.data import ImageDataset
from minddpm.data.class_names import listing, printable
from minddpm.drawing import GUTTER, grid
from minddpm.errors import InputError
from minddpm.generate import labels_in_turn
from minddpm.models import UNet2D


def find_label(unet: UNet2D, text: str, directory: Path) -> int:
    """Return the label of the class called `text`, or of this number.

    A number counts as a label only if no class has a number as its name. Raises InputError if the
    model in `directory` has no such class.
    """
    names, text = unet.label_names, printable(text)
    numbers = [str(label) for label in range(unet.num_classes)]
    if names is not None and text in names:
        return names.index(text)
    if text in numbers and not any(name.isdecimal() for name in names or ()):
        return int(text)
    remedy = "the model has no classes; omit --label"
    if numbers:
        remedy = f"choose {listing(names or numbers)}"
    raise InputError(f"{directory} has no label {text}: {remedy}.")


def labels_of_all_classes(unet: UNet2D, count: int) -> np.ndarray | None:
    """Return sorted labels [count] with equally many of each class; None without classes.

    If that is impossible, the first classes have one more.
    """
    if not unet.num_classes:
        return None
    return np.sort(labels_in_turn(unet, count))


def class_grid(samples: np.ndarray, labels: np.ndarray | None) -> Image.Image:
    """Return a grid with one row per class; shorter rows end in empty cells.

    samples: float [N, H, W, C] in [-1, 1]. labels: sorted int [N], None for a near-square grid.
    """
    if labels is None:
        return grid(samples)
    counts = np.bincount(labels)
    column = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels]
    cells = np.full((len(counts), counts.max(), *samples.shape[1:]), 2 * GUTTER / 255 - 1)
    cells[labels, column] = samples
    return grid(cells.reshape(-1, *samples.shape[1:]), columns=int(counts.max()))


def check_same_classes(where: str, before: dict[str, Any], dataset: ImageDataset) -> None:
    """Raise InputError unless a run that reads labels was trained on the same classes.

    where: names the run. before: the data of its run.json. A run from before run.json had names
    numbered the folders that had a readable image, in the order of their names as text.
    """
    now = dataset.identity()
    if "label_checksum" in before:
        same = all(before.get(key) == now.get(key) for key in ("label_checksum", "label_names"))
        then = listing(before.get("label_names") or ["without names"])
    else:
        names = now.get("label_names") or []
        used = set(np.unique(dataset.labels).tolist()) if names else set()
        in_text_order = sorted(name for label, name in enumerate(names) if label in used)
        same, then = names == in_text_order, listing(in_text_order)
    if not same:
        raise InputError(
            f"{where} was trained with other labels (classes {then}) than these images have now "
            f"(classes {listing(now.get('label_names') or ['without names'])}): restore the class "
            "folders, or start a new run with another --out."
        )
