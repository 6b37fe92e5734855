"""Write the tables of docs/gpu.md: what python -m minddpm.gpucheck measured on a GPU.

    python benchmarks/gpu_tables.py                      # print the tables of the run that is kept
    python benchmarks/gpu_tables.py --write              # and write them into docs/gpu.md
    python benchmarks/gpu_tables.py --keep gpucheck.json # keep another run, and write its tables

Nothing is measured here: a run on a GPU writes gpucheck.json, and benchmarks/gpu keeps one.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

from minddpm.commands import cli
from minddpm.errors import InputError
from minddpm.gpucheck import tables as measured
from minddpm.gpucheck.rung_timings import CONVOLUTIONS
from minddpm.kernels.cuda.ladder import RUNGS
from minddpm.storage.json_files import read_json
from tables import ROOT, cells, markdown, write

FILE = ROOT / "docs" / "gpu.md"
RESULTS = ROOT / "benchmarks" / "gpu" / "h200.json"
STATIC = ROOT / "kernels" / "cuda" / "README.md"  # has the bounds from the machine code
ROWS = {  # of gpucheck.json, by what they are
    "compiled": "compilation", "checks": "checks of results", "timings": "timings",
    "steps": "steps by kernel", "digits": "a training", "sanitizer": "compute-sanitizer",
}  # fmt: skip
SMALLEST = 1.0  # percent of a step: kernels with less are not shown
Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]


def run(content: Record) -> Table:
    """Return how many rows ran, how many failed, and how long they took."""
    lines = []
    for name, title in ROWS.items():
        rows = content[name]
        failed = sum(row.get("ok") is False or bool(row.get("problems")) for row in rows)
        seconds = sum(row.get("seconds", 0) for row in rows)
        lines.append([title, f"{len(rows)}", f"{failed}", f"{seconds:.0f}"])
    return [content["machine"]["GPU"], "rows", "failed", "seconds"], lines


def ceilings(content: Record) -> Table:
    """Return what the card reaches at most: loops of nothing but arithmetic, and a copy."""
    what, rows = "ceiling", measured.by_task(content["timings"])["ceiling"]
    head, lines = measured.timings_table(what, rows, {})
    kept = [i for i, name in enumerate(head) if "host" not in name and name != "MiB"]
    return [head[i] for i in kept], [[line[i] for i in kept] for line in lines]


def training(content: Record) -> Table:
    """Return the times of a training step, ours and PyTorch's."""
    return _steps(content, "training")


def sampling(content: Record) -> Table:
    """Return the times of a sampling step, ours and PyTorch's."""
    return _steps(content, "sampling")


def _steps(content: Record, what: str) -> Table:
    tasks = measured.by_task(content["timings"])
    title = next(name for name in tasks if name.startswith(what))
    rows = {row["name"]: row for row in tasks[title]}  # without PyTorch it is missing twice
    return measured.timings_table(title, list(rows.values()), {})


def kernels(content: Record) -> Table:
    """Return the kernels of the training steps that take the most time, in both precisions."""
    ceiling = measured.ceilings(content["timings"])
    steps = [row for row in content["steps"] if row["what"] == "training"]
    head, found = ["a training step by kernel"], {}
    for place, step in enumerate(steps):
        head += [f"{step['precision']}: us", "% of the step", "% of its ceiling"]
        for kernel in step["kernels"]:
            part = kernel["microseconds"] / step["milliseconds"] / 10
            line = found.setdefault(kernel["name"], [""] * (3 * len(steps)))
            share = measured.share(kernel, ceiling)
            bound = f"{share[0]:.0f} ({share[1]})" if share else ""
            line[3 * place : 3 * place + 3] = [
                f"{kernel['microseconds']:.0f}", f"{part:.1f}", bound
            ]  # fmt: skip
    largest = {name: max(float(part or 0) for part in line[1::3]) for name, line in found.items()}
    names = sorted(found, key=lambda name: -largest[name])
    return head, [[name, *found[name]] for name in names if largest[name] >= SMALLEST]


def convolutions(content: Record) -> Table:
    """Return milliseconds of single convolutions, and the part of the measured ceiling."""
    ceiling, tasks = measured.ceilings(content["timings"]), _convolutions(content)
    share, lines = measured.TIMES.index("% of its ceiling"), {}
    for place, rows in enumerate(tasks.values()):
        for row in rows:
            texts = measured.times(row, ceiling)
            cell = f"{texts[0]}{f' ({texts[share]} %)' * bool(texts[share])}" if texts else ""
            lines.setdefault(row["who"], [""] * len(tasks))[place] = cell
    return ["ms (of the ceiling)", *tasks], [[who, *found] for who, found in lines.items()]


def bounds(content: Record) -> Table:
    """Return the fastest tile of rung 4 beside the bound of its main loop, from its code alone."""
    ceiling, lines = measured.ceilings(content["timings"])["FFMA"], []
    for name, rows in _convolutions(content).items():
        tiles = [row for row in rows if "rung 4" in row["who"] and row["milliseconds"]]
        best = min(tiles, key=lambda row: row["milliseconds"], default=None)
        if best is None:
            continue
        rung = RUNGS[best["who"].removeprefix("rung ")]
        kernel = "conv2d_gradients" if name.endswith("backward") else "conv2d"
        tile = f"{rung.rows} x {rung.columns}"
        reached = f"{100 * best['gflops'] / ceiling:.0f}"
        lines.append([name, tile, reached, static_bounds()[f"{tile}: {kernel}"]])
    head = ["rung 4", "fastest tile", "% of FFMA's ceiling, measured"]
    return [*head, "% at most, by the loop's instructions"], lines


def static_bounds() -> dict[str, str]:
    """Return how busy an H100's multipliers can be at most, by tile and kernel (cuda_tables.py)."""
    text = STATIC.read_text().partition("<!-- benchmark:ceilings -->\n")[2]
    _, _, *lines = text.partition("\n<!-- /benchmark -->")[0].splitlines()
    return {cells(line)[0]: cells(line)[2].split("/")[-1] for line in lines}


def _convolutions(content: Record) -> dict[str, list[Record]]:
    """Return the timings of each convolution that ran, by its short name."""
    tasks = measured.by_task(content["timings"])
    return {
        name.removeprefix("conv ").partition(",")[0]: rows
        for name, rows in tasks.items()
        if name.startswith(tuple(f"conv {size}" for size in CONVOLUTIONS))
    }


TABLES = {f.__name__: f for f in (run, ceilings, training, sampling, kernels, convolutions, bounds)}


def made(path: Path) -> dict[str, str]:
    """Return all tables of a run as Markdown."""
    content = read_json(path)
    return {name: markdown(*table(content)) for name, table in TABLES.items()}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help=f"write {FILE.relative_to(ROOT)}")
    parser.add_argument("--keep", type=Path, metavar="JSON", help="a run of gpucheck to keep")
    args = parser.parse_args()
    if args.keep:
        gpu, kept = (read_json(path)["machine"]["GPU"] for path in (args.keep, RESULTS))
        if gpu != kept:
            raise InputError(
                f"{args.keep} is of {gpu}, and {FILE.name} of {kept}: keep it in another file."
            )
    tables = made(args.keep or RESULTS)
    print(*tables.values(), sep="\n\n")
    if args.keep:
        shutil.copyfile(args.keep, RESULTS)
    if args.write or args.keep:
        write(FILE, tables)
        print(f"wrote {FILE.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
