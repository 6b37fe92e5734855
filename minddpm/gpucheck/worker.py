"""The process that uses the GPU: runs rows one after the other, and prints each as a line of JSON.

    python -m minddpm.gpucheck.worker --first 0

A row is a check of a kernel, a timing or a tool of compute-sanitizer. A kernel that never ends, or
an access outside an array, makes the device useless for the rest of a process. So supervisor.py
runs this process, ends it if a row takes too long, and begins a new one with the next row. This
process ends by itself, with exit code LOST, after a row that has left the device unusable.

    {"kind": "plan", "machine": {...}, "emulated": false, "rows": [["check", "silu"], ...]}
    {"kind": "begin", "row": 0}
    {"kind": "check", "row": 0, "name": "silu", "error": 1e-7, ...}
    {"kind": "state", "when": "after row 0", "clocks": "1410 MHz, ...", ...}
    {"kind": "end"}

A state comes before the first row and after the last one of each kind.
"""

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import minddpm
from minddpm import backend
from minddpm.errors import InputError
from minddpm.gpucheck import machine

LOST = 3  # the exit code if the device can no longer be used


class Item(NamedTuple):
    """A row to be computed: its kind, its name, and the function that returns its numbers."""

    kind: str
    name: str
    run: Callable[[], dict[str, Any]]


def items(quick: bool, emulated: bool) -> list[Item]:
    """Return all rows, in the order in which they are worth a GPU's time.

    First whether results are right; then what users run, a training step, also kernel by kernel
    beside what the card reaches at most, and sampling; then single convolutions; then
    compute-sanitizer, which is slow. The emulator is not timed.
    """
    from minddpm.gpucheck import (
        ceilings,
        checks,
        step,
        timings,
    )  # slow: after the GPU has been found

    listed = [
        Item("check", check.name, partial(_check, check))
        for check in (*checks.kernel_checks(quick), *checks.model_checks(quick))
    ]
    if emulated:
        return listed
    timed = [_timed(task) for task in timings.tasks(quick)]
    after = sum(item.name.startswith("training") for item in timed)
    listed += timed[:after]
    listed.append(Item("step", "training step by kernel", partial(_step, step.breakdown, quick)))
    listed += [*map(_timed, ceilings.tasks(quick)), *timed[after:]]
    return listed + [Item("sanitizer", tool, partial(_sanitized, tool)) for tool in machine.TOOLS]


def _timed(task: Any) -> Item:
    return Item("timing", f"{task.what}, {task.who}", partial(_timing, task))


def _check(check: Any) -> dict[str, Any]:
    row = check()
    return {**row._asdict(), "error": _number(row.error), "ok": row.ok}


def _timing(task: Any) -> dict[str, Any]:
    timing = task()
    rates = {"gflops": timing.gflops, "gigabytes": timing.gigabytes}
    return {**timing._asdict(), **rates, "ok": not timing.problem}


def _step(breakdown: Any, quick: bool) -> dict[str, Any]:
    found = breakdown(quick)
    kernels = [kernel._asdict() for kernel in found.kernels]
    more = {"kernels": kernels, "launches": found.launches, "ok": not found.problem}
    return {**found._asdict(), **more}


def _sanitized(tool: str) -> dict[str, Any]:
    return machine.sanitized(tool)._asdict()


def _number(x: float) -> float | str:
    """Return x, or a string for nan and infinity, which JSON does not have."""
    return x if math.isfinite(x) else str(x)


def records(first: int, quick: bool) -> Iterator[dict[str, Any]]:
    """Yield the lines of this process, from row `first` on."""
    try:
        minddpm.set_backend("cupy")
    except InputError as problem:
        raise InputError(f"no GPU to check, and MINDDPM_CUDA is not emulate: {problem}") from None
    emulated = machine.is_emulated()
    facts = machine.description()
    listed = items(quick or emulated, emulated)
    plan = [[item.kind, item.name] for item in listed]
    yield {"kind": "plan", "machine": facts, "emulated": emulated, "rows": plan}
    yield {"kind": "state", "when": f"before row {first}", **machine.state()}
    for number, item in enumerate(listed[first:], first):
        yield {"kind": "begin", "row": number}
        yield {"kind": item.kind, "row": number, **item.run()}
        if not usable():
            raise SystemExit(LOST)
        if number + 1 == len(listed) or listed[number + 1].kind != item.kind:
            yield {"kind": "state", "when": f"after row {number}", **machine.state()}
    yield {"kind": "end"}


def usable() -> bool:
    """Return whether the device still works: after some errors every call in the process fails."""
    try:
        backend.xp.cuda.Device().synchronize()
    except Exception:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    # Whatever else prints, such as a kernel, must not appear between the lines.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        for record in records(args.first, args.quick):
            print(json.dumps(record), file=lines, flush=True)
    except InputError as problem:
        print(json.dumps({"kind": "refused", "problem": str(problem)}), file=lines, flush=True)


if __name__ == "__main__":
    sys.exit(main())
