"""The table of replay: the same work with and without Python between the kernels."""

import argparse
from collections.abc import Iterator

import minddpm
import unets
from contestants import share_threads
from measure import interleave, median, ratio

SIZES = {"sample": (1, 4, 16, 64), "train": (1, 4, 32, 128)}
NAMES = {"sample": "sampling step", "train": "training step"}
ROUNDS = 11


def replay(args: argparse.Namespace) -> Iterator[None]:
    """Time sampling and training steps that replay, and the same eagerly."""
    share_threads(args.threads)
    rows = []
    for task, sizes in SIZES.items():
        for N in sizes:
            rows.append(_row(task, N))
            yield
    return ["ms", "eager", "replayed", "eager / replayed"], rows


def _row(task: str, N: int) -> list[str]:
    p = unets.problem(minddpm.SMALL, N)
    wanted = unets.expected(task, p)
    replayed = unets.build("numba", task, p, wanted)
    with unets.without_replay():
        run = {"eager": unets.build("numba", task, p, wanted), "replayed": replayed}
    seconds = interleave(run, ROUNDS)
    ms = [f"{median(seconds[name]) * 1e3:.1f}" for name in run]
    return [f"{NAMES[task]}, batch {N}", *ms, f"{ratio(seconds, 'eager', 'replayed'):.2f}"]
