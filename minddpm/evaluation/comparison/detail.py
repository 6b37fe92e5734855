"""One figure of how blurred the samples are: power spectra, and the share of grey pixels."""

import os
from typing import Any

import numpy as np

from minddpm.drawing import curve
from minddpm.evaluation.comparison.table import REFERENCES, Results
from minddpm.evaluation.metrics.spectrum import fine_power, power_spectrum


def measure(samples: np.ndarray, real: np.ndarray) -> dict[str, Any]:
    """Return the entries of result.json on detail: of uint8 samples, and of as many real digits."""
    frequencies, power = power_spectrum(samples)
    return {
        "grey_pixels": {"value": grey_pixels(samples), "floor": grey_pixels(real)},
        "fine_power": {"value": fine_power(samples), "floor": fine_power(real)},
        "spectrum": {
            "frequencies": frequencies.tolist(),
            "value": power.tolist(),
            "floor": power_spectrum(real)[1].tolist(),
        },
    }


def grey_pixels(images: np.ndarray) -> float:
    """Return the share of uint8 pixels that are clearly grey (51 .. 204), a measure of blur."""
    return float(((images > 50) & (images < 205)).mean())


def lines(results: Results) -> dict[str, tuple[list[float], list[float]]]:
    """Return the mean power of each system and of real digits over the frequencies, with a name.

    The name states the mean share of grey pixels.
    """
    groups = [(name, column, "value") for name, column in results.items()]
    (first, *_) = results.values()
    series = {}
    for name, column, key in [*groups, (REFERENCES["floor"], first, "floor")]:
        grey = np.mean([r["grey_pixels"][key] for r in column])
        power = np.mean([r["spectrum"][key] for r in column], axis=0)
        series[f"{name}, {grey:.1%} grey"] = (column[0]["spectrum"]["frequencies"], power.tolist())
    return series


def draw_detail(results: Results, path: str | os.PathLike) -> None:
    """Write the figure as PNG."""
    curve(
        lines(results), path, "Detail: power at each frequency, and the share of grey pixels",
        "cycles per pixel", "power", log_y=True, log_x=True,
    )  # fmt: skip
