"""The tables of UNets: start-up and memory, side by side, with AVX2, and the lower bound."""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import minddpm
import startup
from contestants import share_threads
from floor import training_step
from measure import WrongResultError, best, interleave, median, ratio
from peak import bandwidth, fma_peak
from tables import ROOT, Table, cells, markdown
from unets import INFERENCE, PYTORCH, XLA, build, expected, missing, modes, problem

COMPILED = ("torch.compile", "JAX", "OpenVINO", "ONNX Runtime")
ALL_MODES = ("minddpm", *PYTORCH, *XLA, *INFERENCE)
AVX2 = {  # variables of minddpm, PyTorch, oneDNN and MKL
    "MINDDPM_VECTOR_BITS": "256", "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
}  # fmt: skip
Line = tuple[str, str, dict[str, Any], int, int | None]  # title, task, configuration, batch, size
SMALL_LINES: list[Line] = [
    ("training step, batch 128", "train", minddpm.SMALL, 128, None),
    ("forward, batch 128", "forward", minddpm.SMALL, 128, None),
    *((f"sampling step, batch {n}", "sample", minddpm.SMALL, n, None) for n in (1, 16, 64)),
]
MORE_LINES: list[Line] = [
    ("sampling step, batch 128", "sample", minddpm.SMALL, 128, None),
    ("training step, 32x32, batch 32 (eager)", "train", minddpm.SMALL, 32, 32),
    ("training step, 64x64, batch 8 (eager)", "train", minddpm.SMALL, 8, 64),
    (
        "training step, 35.7M-parameter CIFAR-10 model, batch 8 (eager)",
        "train", minddpm.PAPER, 8, None,
    ),
]  # fmt: skip


def eager(task: str) -> list[str]:
    """Return the installed modes of this task that compile nothing."""
    return [mode for mode in modes(task) if mode not in COMPILED]


def start(args: argparse.Namespace) -> Table:
    """Measure start-up times, and each eager mode's peak memory in training."""
    rows = []
    for name, seconds in startup.start_up().items():
        rows.append([name, f"{seconds:.1f} s"])
        yield
    for mode in ("minddpm", *eager("train")):
        peak, added = startup.training_memory(mode)
        rows.append(
            [
                f"peak memory, training with batch 128: {mode}",
                f"{peak:.2f} GB",
                f"{added:.2f} GB in the steps",
            ]
        )
        yield
    width = max(map(len, rows))
    return ["start and memory", "", ""][:width], [row + [""] * (width - len(row)) for row in rows]


def unet(args: argparse.Namespace) -> Table:
    """Time every task with every installed mode."""
    if absent := missing():
        print(f'not compared: {", ".join(absent)}; pip install -e ".[benchmark]"', file=sys.stderr)
    others = [m for m in modes("forward") if not (args.quick and m in COMPILED)]
    return (yield from side_by_side([*SMALL_LINES, *MORE_LINES], others, args))


def summary(table: str) -> str:
    """Shorten the table `unet` to the small UNet and PyTorch's columns, for the README."""
    head, _, *rows = map(cells, table.splitlines())
    columns = [i for i, name in enumerate(head) if name not in (*XLA, *INFERENCE)]
    titles = [title for title, *_ in SMALL_LINES]
    short = [[row[i] for i in columns] for row in rows if row[0] in titles]
    return markdown([head[i] for i in columns], short)


def avx2(args: argparse.Namespace) -> Table:
    """Time the eager modes in a process in which no library may use AVX-512."""
    if AVX2.items() <= os.environ.items():
        return (yield from side_by_side(SMALL_LINES, eager("forward"), args))
    threads = ["--threads", str(args.threads)] if args.threads else []
    script = str(ROOT / "benchmarks" / "readme_tables.py")
    command = [sys.executable, script, "--only", "avx2", *threads]
    yield
    done = subprocess.run(command, env={**os.environ, **AVX2}, stdout=subprocess.PIPE, check=True)
    head, _, *rows = map(cells, done.stdout.decode().strip().splitlines())
    return head, rows


def side_by_side(lines: Sequence[Line], others: list[str], args: argparse.Namespace) -> Table:
    """Time each line with minddpm and with the other modes that support its task."""
    share_threads(args.threads)
    rows = []
    for title, task, config, batch, size in lines:
        p = problem(config, batch, size)
        wanted = expected(task, p)
        run: dict[str, Callable[[], Any]] = {"minddpm": build("numba", task, p, wanted)}
        for mode in others:
            # Rows titled "eager" omit the compilers, which would take minutes for each row.
            if mode in modes(task) and not (mode in COMPILED and "eager" in title):
                try:
                    run[mode] = build(mode, task, p, wanted)
                except WrongResultError as error:
                    print(f"not timed: {mode}, {title}: {error}", file=sys.stderr)
                yield
        seconds = interleave(run, rounds=7 if batch > 16 else 15)
        pytorch = best(seconds, [m for m in run if m in PYTORCH])
        times = [f"{median(seconds[m]) * 1e3:.1f}" if m in run else "-" for m in ALL_MODES]
        speedup = f"{ratio(seconds, pytorch, 'minddpm'):.2f}" if pytorch else "-"
        rows.append([title, *times, speedup])
        yield
    measured = [i for i in range(len(rows[0])) if i == 0 or any(row[i] != "-" for row in rows)]
    head = ["ms", *ALL_MODES, "times PyTorch's best"]
    return [head[i] for i in measured], [[row[i] for i in measured] for row in rows]


def floor(args: argparse.Namespace) -> Table:
    """Compare the time of a training step with its lower bound."""
    threads = share_threads(args.threads)
    flops, memory = fma_peak(threads), bandwidth(threads)
    p = problem(minddpm.SMALL, 128)
    wanted = expected("train", p)
    train = build("numba", "train", p, wanted)
    yield
    total = training_step(p, wanted)
    ms = median(interleave({"train": train}, rounds=5)["train"]) * 1e3
    products, traffic = total["flops"] / flops / 1e6, total["bytes"] / memory / 1e6
    yield
    return ["training step, batch 128", ""], [
        ["products after Winograd", f"{total['flops'] / 1e9:.0f} GFLOP, {products:.0f} ms at peak"],
        ["arrays in and out", f"{total['bytes'] / 1e9:.1f} GB, {traffic:.0f} ms at bandwidth"],
        ["measured", f"{ms:.0f} ms"],
        ["of the larger floor", f"{max(products, traffic) / ms:.0%}"],
    ]


TABLES = {f.__name__: f for f in (start, unet, avx2, floor)}
