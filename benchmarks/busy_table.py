"""The tables of the thread pool: beside programs that never pause, and the cost of a task."""

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

import minddpm
from contestants import share_threads
from measure import interleave, median
from minddpm.kernels.cpu import threads as kernel_threads
from minddpm.kernels.cpu.cores import usable_cores
from minddpm.kernels.cpu.recorder import recorded_by
from minddpm.kernels.cpu.task import task
from tables import Table
from unet_tables import eager
from unets import build, expected, problem

LOOPS = (0, 1, 2)  # endless loops beside the training
BATCH, ROUNDS = 32, 15
CALLS = 5000
OPENMP = "minddpm with OpenMP (NUMBA_THREADING_LAYER=omp)"


def _with_layer(threads: int, step: Callable[[], Any]) -> Any:
    """Take a step with Numba's threading layer instead of the pool."""
    kernel_threads.start(numba_layer=True)
    kernel_threads.set_threads(threads)
    try:
        return step()
    finally:
        kernel_threads.start(numba_layer=False)
        kernel_threads.set_threads(threads)


@contextmanager
def beside(loops: int) -> Iterator[None]:
    """Run processes with endless loops during the block."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(loops)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def busy(args: argparse.Namespace) -> Table:
    """Time a training step of each eager mode, alone and beside endless loops."""
    threads = share_threads(args.threads)
    p = problem(minddpm.SMALL, BATCH)
    wanted = expected("train", p)
    pool, openmp = (build("numba", "train", p, wanted) for _ in range(2))
    run = {"minddpm": pool, OPENMP: partial(_with_layer, threads, openmp)}
    for mode in eager("train"):
        run[mode] = build(mode, "train", p, wanted)
        yield
    seconds: dict[int, dict[str, list[float]]] = {}
    for loops in LOOPS:
        with beside(loops):
            seconds[loops] = interleave(run, ROUNDS)
        yield
    rows = []
    for mode in run:
        ms = [median(seconds[loops][mode]) * 1e3 for loops in LOOPS]
        rows.append([mode, *(f"{m:.0f} ({m / ms[0]:.1f})" for m in ms)])
    shares = [max(1.0, (threads + loops) / usable_cores()) for loops in LOOPS]
    rows.append(["a fair share of the cores", *(f"({share:.1f})" for share in shares)])
    head = [f"training step, batch {BATCH}, ms (times its own time alone)", "alone"]
    return [*head, *(f"beside {n}" for n in LOOPS[1:])], rows


@task
def _empty(piece, pieces, worker, at):
    pass


def tasks(args: argparse.Namespace) -> Table:
    """Time a task that does nothing: called from Python, in a recorded list, and with OpenMP."""
    threads, rows = share_threads(args.threads), []
    for pieces in (1, 2, 16):
        recorder = Noted()
        with recorded_by(recorder):
            for _ in range(CALLS):
                _empty(pieces)
        rows_of_list = np.array(recorder.rows, np.int64)
        call = partial(_repeat, partial(_empty, pieces))
        run = {
            "called from Python": call,
            "in a recorded list": partial(kernel_threads.run_list, rows_of_list),
            "OpenMP, called from Python": partial(_with_layer, threads, call),
        }
        seconds = interleave(run, rounds=15)
        us = [f"{median(seconds[name]) / CALLS * 1e6:.2f}" for name in run]
        rows.append([f"{pieces} piece{'s' if pieces > 1 else ''}", *us])
        yield
    return ["an empty task, us", *run], rows


def _repeat(call: Callable[[], Any]) -> None:
    for _ in range(CALLS):
        call()


class Noted:
    """A recorder that notes the tasks alone."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, int, int]] = []

    def add(self, function: int, pieces: int, numbers: tuple[int, ...]) -> None:
        self.rows.append((function, pieces, 0))


TABLES = {"busy": busy, "tasks": tasks}
