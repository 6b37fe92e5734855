"""The tables of the machine and of single operations: machine, peak, conv, operations."""

import argparse
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from cases import TABLE_BATCH, convolutions, directions, other_operations
from contestants import expected, fits, layouts, ours, rung, share_threads, theirs
from measure import best, interleave, median, ratio
from minddpm.kernels.cpu.ladder.choose import LADDER
from minddpm.kernels.cpu.vector.instructions import LANES
from peak import bandwidth, fma_peak, micro_kernel
from tables import Table


def machine(args: argparse.Namespace) -> Table:
    """List the processor and the versions of the libraries."""
    yield
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [s for s in info.read_text().splitlines() if s.startswith("model name")]
        model = names[0].partition(":")[2].strip() if names else model
    versions = [f"Python {platform.python_version()}"]
    for package in ("numpy", "numba", "torch", "jax", "openvino", "onnxruntime"):
        try:
            versions.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    threads = share_threads(args.threads)
    return ["machine", ""], [
        ["CPU", f"{model}, {threads} threads, vectors of {32 * LANES} bits"],
        ["versions", ", ".join(versions)],
    ]


def peak(args: argparse.Namespace) -> Table:
    """Measure peak arithmetic and memory bandwidth, on one thread and on all."""
    rows = []
    threads = share_threads(args.threads)
    for n in sorted({1, threads}):
        fma, tile = fma_peak(n), micro_kernel(n)
        yield
        rows.append(
            [str(n), f"{fma:.0f}", f"{tile:.0f}", f"{tile / fma:.0%}", f"{bandwidth(n):.0f}"]
        )
        yield
    head = ["threads", "FMA peak, GFLOP/s", "register tile", "of the peak", "memory, GB/s"]
    return head, rows


def conv(args: argparse.Namespace) -> Table:
    """Time the ladder's rungs; GFLOP/s count the definition's operations for every rung."""
    fma = fma_peak(share_threads(args.threads))
    rows = []
    for name, make in convolutions(TABLE_BATCH).items():
        for backward in (False, True):
            case = make()
            wanted = expected(case, backward)
            run = {r: rung(case, backward, r, wanted) for r in LADDER if fits(r, case)}
            run |= {mode: theirs(case, backward, mode, wanted) for mode in layouts(name)}
            seconds = interleave(run, rounds=3)
            yield
            pytorch = best(seconds, layouts(name))
            for contestant in run:
                ms = median(seconds[contestant]) * 1e3
                speed = case.flops * (1 + backward) / ms / 1e6
                speedup = f"{ratio(seconds, pytorch, contestant):.2f}" if pytorch else "-"
                rows.append(
                    [
                        f"{name}{' backward' * backward}",
                        contestant,
                        f"{ms:.2f}",
                        f"{speed:.0f}",
                        f"{speed / fma:.0%}",
                        speedup,
                    ]
                )
    head = ["layer", "rung", "ms", "GFLOP/s", "of FMA peak", "times PyTorch's best"]
    return head, rows


def operations(args: argparse.Namespace) -> Table:
    """Time every other operation: the chosen kernel, and PyTorch in its faster layout."""
    share_threads(args.threads)
    rows = []
    cases = other_operations(TABLE_BATCH)
    for name, backward in directions(cases):
        case = cases[name]()
        wanted = expected(case, backward)
        run = {mode: theirs(case, backward, mode, wanted) for mode in layouts(name)}
        run["minddpm"] = ours(case, backward, "numba", wanted)
        seconds = interleave(run, rounds=5)
        yield
        pytorch = best(seconds, layouts(name))
        row = [f"{name}{' backward' * backward}", f"{median(seconds['minddpm']) * 1e3:.2f}"]
        if pytorch:
            row += [f"{median(seconds[pytorch]) * 1e3:.2f}"]
            row += [f"{ratio(seconds, pytorch, 'minddpm'):.2f}"]
        rows.append(row if pytorch else [*row, "-", "-"])
    return ["operation", "minddpm, ms", "PyTorch's best layout, ms", "ratio"], rows


TABLES = {f.__name__: f for f in (machine, peak, conv, operations)}
