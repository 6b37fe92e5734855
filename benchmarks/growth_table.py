"""The table of growth: what a training step costs with the batch, image, width and threads."""

import argparse
from collections.abc import Callable
from typing import Any

import minddpm
import unets
from contestants import share_threads
from floor import training_step
from measure import interleave, median, ratio
from minddpm.kernels.cpu import threads as kernel_threads
from peak import fma_peak
from tables import Table

CHANNELS = minddpm.SMALL["block_out_channels"]
BASE = {"N": 32, "size": 28, "width": CHANNELS[0], "threads": None}
CHANGES = [
    *({"N": N} for N in (1, 4, 16, 32, 64, 128, 256)),
    *({"size": size, "N": N} for size, N in ((64, 8), (128, 2))),
    *({"width": width, "N": 4} for width in (64, 128, 256)),
    {"threads": 1},
]
PYTORCH = "PyTorch NCHW"


def growth(args: argparse.Namespace) -> Table:
    """Time a training step of the small UNet, changed in one respect, beside PyTorch's."""
    most, rows, peaks = share_threads(args.threads), [], {}
    for change in CHANGES:
        case = {**BASE, "threads": most} | change
        threads = share_threads(case["threads"])
        if threads not in peaks:
            peaks[threads] = fma_peak(threads)
        p = unets.problem(_config(case["width"]), case["N"], case["size"])
        wanted = unets.expected("train", p)
        run: dict[str, Callable[[], Any]] = {
            mode: unets.build(mode, "train", p, wanted) for mode in ("numba", PYTORCH)
        }
        yield
        seconds = interleave(run, rounds=7)
        cost = training_step(p, wanted)
        ms = median(seconds["numba"]) * 1e3
        at_peak = cost["flops"] / peaks[threads] / 1e6
        rows.append([
            ", ".join(f"{name} {value}" for name, value in change.items()).replace("N ", "batch "),
            f"{ms / case['N']:.2f}", f"{at_peak / ms:.0%}",
            f"{ratio(seconds, PYTORCH, 'numba'):.2f}",
        ])  # fmt: skip
        yield
    kernel_threads.set_threads(most)
    base = f"batch {BASE['N']}, size {BASE['size']}, width {BASE['width']}, threads {most}"
    return [f"{base}, but", "ms an image", "of the products' floor", f"times {PYTORCH}"], rows


def _config(width: int) -> dict[str, Any]:
    """Return the small UNet's configuration with all channels multiplied."""
    channels = tuple(C * width // CHANNELS[0] for C in CHANNELS)
    return {**minddpm.SMALL, "block_out_channels": channels}
