"""The last lines of pytest --benchmark-only: our kernels against the best other, the worst first.

Before the benchmarks, noise() measures how quiet the machine is.
"""

import statistics
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from minddpm.commands.cli import markdown
from minddpm.kernels.cpu.cores import usable_cores

# Whose time is ours, the best first: on a GPU, on the CPU, and the kernel that the ladder chooses.
OURS = ("cupy", "numba", "chosen")
SHOWN = 25  # rows
QUIET = 0.1  # share of the time that other programs may take
WORK = bytes(2**19)  # its checksum takes about a fifth of a millisecond


class Row(NamedTuple):
    """An operation, in seconds; ratio: how many times as long the best other takes."""

    name: str
    ours: float
    other_name: str
    other: float

    @property
    def ratio(self) -> float:
        return self.other / self.ours


def compare(medians: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Return a row for each operation that has others, the worst ratio first.

    medians: operation -> contestant -> seconds.
    """
    rows = []
    for name, seconds in medians.items():
        ours = next((seconds[mine] for mine in OURS if mine in seconds), None)
        others = {other: s for other, s in seconds.items() if other not in OURS}
        if ours is not None and others:
            best = min(others, key=others.__getitem__)
            rows.append(Row(name, ours, best, others[best]))
    return sorted(rows, key=lambda row: row.ratio)


def summary(rows: list[Row]) -> str:
    """Return the SHOWN worst rows as a table, and a sentence about all of them."""
    cells = [
        [r.name, milliseconds(r.ours), milliseconds(r.other), r.other_name, f"{r.ratio:.2f}"]
        for r in rows[:SHOWN]
    ]
    table = markdown(["worst first, ms", "ours", "best other", "which", "ratio"], cells)
    middle = statistics.median(row.ratio for row in rows)
    slower = sum(row.ratio < 1 for row in rows)
    return (
        f"{table}\n\n{len(rows)} operations, {min(len(rows), SHOWN)} shown; ratio: best other / "
        f"ours, median {middle:.2f}; in {slower} another is faster."
    )


def milliseconds(seconds: float) -> str:
    """Return a time with three digits."""
    return f"{seconds * 1e3:.3g}"


def noise(times: int = 5000) -> float:
    """Return the share of time that other programs take from the cores, measured on all at once.

    Each core does the same work many times. Without others every time would be the shortest.
    """

    def lost(core: int) -> float:
        seconds = []
        for _ in range(times):
            start = time.perf_counter()
            zlib.crc32(WORK)  # without Python's lock
            seconds.append(time.perf_counter() - start)
        return 1 - times * statistics.median(seconds) / sum(seconds)

    cores = usable_cores()
    with ThreadPoolExecutor(cores) as threads:
        return max(0.0, statistics.mean(threads.map(lost, range(cores))))


def quiet_line(share: float) -> str:
    """Return one line about the machine's noise, a warning if it is not quiet."""
    if share <= QUIET:
        return f"the machine is quiet: other programs take {share:.0%} of its cores"
    return (
        f"WARNING: the machine is not quiet: other programs take {share:.0%} of its cores. End "
        "them, or believe only ratios."
    )
