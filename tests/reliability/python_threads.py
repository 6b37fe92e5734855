"""Python threads that sample at once, compared with the samples that they would draw alone."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from builders import random_unet
from report import Row, chosen_names
from tqdm import tqdm

import minddpm

COUNT = 1000  # times that the threads sample at once
THREADS = ("2", "4", "8")
SHAPE = (1, 8, 8, 1)


def run(seed: int, count: int = COUNT, only: Sequence[str] | None = None) -> list[Row]:
    """Sample at once `count` times on the numba backend; only: numbers of Python threads."""
    minddpm.set_backend("numba")
    rows = []
    for threads in chosen_names(THREADS, only):
        with tqdm(total=count, unit="time", desc=f"{threads} threads", disable=None) as bar:
            different = sample_at_once(int(threads), count, seed, bar.update)
        tried = count * int(threads)
        found = [f"{different} samples of {threads} threads differ"] if different else []
        rows.append(Row(f"{threads} threads", tried, {"same sample": tried - different}, found))
    return rows


def at_once(works: Sequence[tuple[Callable[[int], Any], int]]) -> list[Any]:
    """Call each function with its number in a Python thread of its own; return the results."""
    results: list[Any] = [None] * len(works)
    start = threading.Barrier(len(works))

    def run(i: int) -> None:
        start.wait()
        work, number = works[i]
        results[i] = work(number)

    running = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return results


def sample_at_once(
    count: int, times: int, seed: int = 0, progress: Callable[[], Any] = lambda: None
) -> int:
    """Let `count` threads sample at once, `times` times; return how many samples differ.

    Each thread has a seed of its own, from `seed` on. progress is called after each time.
    """
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(1000))
    unet = random_unet(scale=0.1)

    def draw(seed: int) -> np.ndarray:
        model = minddpm.replayed(unet)
        *_, step = minddpm.samplers.ddpm(diffusion, model, SHAPE, 3, seed=seed)
        return step.x

    seeds = range(seed, seed + count)
    alone = [draw(seed) for seed in seeds]
    different = 0
    for _ in range(times):
        together = at_once([(draw, seed) for seed in seeds])
        different += sum(
            x is None or not np.array_equal(x, y) for x, y in zip(together, alone, strict=True)
        )
        progress()
    return different
