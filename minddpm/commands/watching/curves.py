"""The curves of loss.csv for the page: few points, without the noise of single steps."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from minddpm.commands.run_figures import LOSSES, smooth
from minddpm.drawing import COLOURS

POINTS = 300  # of a curve, about as many as a screen can show
NO_LOSS = ("step", "grad_norm", "lr")


def curves(columns: Sequence[str], rows: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return {"steps": [n], "curves": [{"name", "colour", "values": [n]}]} of rows of loss.csv.

    columns: the names of a row's numbers, "step" first. n is at most POINTS; a value is nan where
    the log has none.
    """
    table = np.array(rows, np.float64).reshape(len(rows), len(columns))
    stride = max(1, -(-len(table) // POINTS))
    shown = slice(stride - 1, None, stride)  # the last row of each stride
    by_t = set(LOSSES.values()) <= set(columns)
    labels = {column: label for label, column in LOSSES.items()} if by_t else {}
    names = [name for name in columns if name not in NO_LOSS]
    found = []
    for name, colour in zip(names, itertools.cycle(COLOURS), strict=False):
        values = smooth(table[:, columns.index(name)], max(9, 2 * stride - 1))[shown]
        found.append({
            "name": labels.get(name, name),
            "colour": colour,
            "values": [float(f"{value:.4g}") for value in values],
        })  # fmt: skip
    return {"steps": table[shown, 0].astype(int).tolist(), "curves": found}
