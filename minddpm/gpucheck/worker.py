"""The process that uses the GPU: runs rows one after the other, and prints each as a line of JSON.

    python -m minddpm.gpucheck.worker --first 0 --seconds 480 --picture gpucheck.png

A row is a check of a kernel, a timing or a tool of compute-sanitizer. A kernel that never ends, or
an access outside an array, makes the device useless for the rest of a process. So supervisor.py
runs this process, ends it if a row takes too long, and begins a new one with the next row. This
process ends by itself, with exit code LOST, after a row that has left the device unusable.

    {"kind": "plan", "machine": {...}, "emulated": false, "rows": [["check", "silu"], ...]}
    {"kind": "begin", "row": 0}
    {"kind": "check", "row": 0, "seconds": 0.1, "name": "silu", "error": 1e-7, ...}
    {"kind": "state", "when": "after silu", "clocks": "1410 MHz, ...", ...}
    {"kind": "end"}

A state comes before the first row and after the last one of each kind.
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import minddpm
from minddpm import backend
from minddpm.errors import InputError
from minddpm.gpucheck import machine

LOST = 3  # the exit code if the device can no longer be used
DIGITS = 0.3  # of the seconds that are left may be used for the training


class Item(NamedTuple):
    """A row to be computed: its kind, its name, and the function that returns its numbers."""

    kind: str
    name: str
    run: Callable[[], dict[str, Any]]


class Settings(NamedTuple):
    """How the rows are run. deadline: by time.monotonic(). picture: the file of the digits."""

    quick: bool
    deadline: float
    picture: Path


def items(settings: Settings, emulated: bool) -> list[Item]:
    """Return all rows, in the order in which they are worth a GPU's time.

    First whether results are right; then what users run, training and sampling, beside PyTorch and
    beside what the card reaches at most; a training; single convolutions; compute-sanitizer, if it
    is installed; and last what takes long to compile. The emulator is not timed.
    """
    from minddpm.gpucheck import ceilings, checks, digits, kernel_checks, rung_timings, step_timings

    quick = settings.quick
    checked = [
        Item("check", check.name, partial(_check, check))
        for check in (*kernel_checks.kernel_checks(quick), *checks.model_checks(quick))
    ]
    if emulated:
        return checked
    early, late = ("eager", "graph"), ("compiled",)
    return [
        Item("compile", "all kernels", partial(_compiled, quick)),
        *checked,
        *map(_timed, step_timings.training(quick)),
        *map(_timed, step_timings.sampling_steps(quick)),
        *(
            Item("step", f"{what} step by kernel, {name}", partial(_step, what, name, quick))
            for what in ("training", "sampling")
            for name in ("float32", "fp16") if name in backend.precisions()
        ),
        *map(_timed, ceilings.tasks(quick)),
        *map(_timed, step_timings.pytorch("training", early, quick)),
        *map(_timed, step_timings.pytorch("sampling", early, quick)),
        Item("resources", "registers and memory of the kernels", _resources),
        Item("digits", "a training", partial(_digits, digits.digits, settings)),
        *map(_timed, rung_timings.tasks(quick)),
        *(Item("sanitizer", tool, partial(_sanitized, tool)) for tool in machine.TOOLS),
        *map(_timed, step_timings.pytorch("training", late, quick)),
        *map(_timed, step_timings.pytorch("sampling", late, quick)),
    ]  # fmt: skip


def _compiled(quick: bool) -> dict[str, Any]:
    """Compile everything that the checks and the timings of steps launch."""
    from minddpm.gpucheck import kernel_checks, step_timings
    from minddpm.gpucheck.checks import first_line
    from minddpm.kernels.cuda.ahead import compile_ahead

    def run() -> None:
        kernel_checks.run_all(quick)
        step_timings.run_all(quick)

    try:
        return compile_ahead(run)._asdict()  # a problem is also that of a row, which fails
    except Exception as problem:  # any error of the device: all else is still to be tried
        return {"modules": 0, "problems": [first_line(problem)]}


def _timed(task: Any) -> Item:
    return Item("timing", f"{task.what}, {task.who}", partial(_timing, task))


def _check(check: Any) -> dict[str, Any]:
    row = check()
    return {**row._asdict(), "error": _number(row.error), "ok": row.ok}


def _timing(task: Any) -> dict[str, Any]:
    timing = task()
    rates = {"gflops": timing.gflops, "gigabytes": timing.gigabytes}
    rates["images_per_second"] = timing.images_per_second
    return {**timing._asdict(), **rates, "ok": None if timing.missing else not timing.problem}


def _step(what: str, precision: str, quick: bool) -> dict[str, Any]:
    from minddpm.gpucheck import step

    found = step.breakdown(what, precision, quick)
    kernels = [kernel._asdict() for kernel in found.kernels]
    more = {"kernels": kernels, "launches": found.launches, "ok": not found.problem}
    return {**found._asdict(), **more}


def _resources() -> dict[str, Any]:
    from minddpm.gpucheck.resources import resources

    return {"kernels": [each._asdict() for each in resources()]}


def _digits(digits: Any, settings: Settings) -> dict[str, Any]:
    seconds = DIGITS * (settings.deadline - time.monotonic())
    found = digits(seconds, settings.picture, settings.quick)
    return {**found._asdict(), "ok": None if found.missing else not found.problem}


def _sanitized(tool: str) -> dict[str, Any]:
    return machine.sanitized(tool)._asdict()


def _number(x: float) -> float | str:
    """Return x, or a string for nan and infinity, which JSON does not have."""
    return x if math.isfinite(x) else str(x)


def records(first: int, settings: Settings) -> Iterator[dict[str, Any]]:
    """Yield the lines of this process, from row `first` on."""
    try:
        minddpm.set_backend("cupy")
    except InputError as problem:
        raise InputError(f"no GPU to check, and MINDDPM_CUDA is not emulate: {problem}") from None
    emulated = machine.is_emulated()
    facts = machine.description()
    listed = items(settings._replace(quick=settings.quick or emulated), emulated)
    plan = [[item.kind, item.name] for item in listed]
    yield {"kind": "plan", "machine": facts, "emulated": emulated, "rows": plan}
    yield {"kind": "state", "when": f"before {listed[first].name}", **machine.state()}
    for number, item in enumerate(listed[first:], first):
        yield {"kind": "begin", "row": number}
        begun = time.monotonic()
        result = item.run()
        seconds = round(time.monotonic() - begun, 2)
        yield {"kind": item.kind, "row": number, "name": item.name, "seconds": seconds, **result}
        if not usable():
            raise SystemExit(LOST)
        if number + 1 == len(listed) or listed[number + 1].kind != item.kind:
            yield {"kind": "state", "when": f"after {item.name}", **machine.state()}
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
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--picture", type=Path, required=True)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    settings = Settings(args.quick, time.monotonic() + args.seconds, args.picture)
    # Whatever else prints, such as a kernel, must not appear between the lines.
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    try:
        for record in records(args.first, settings):
            print(json.dumps(record), file=lines, flush=True)
    except InputError as problem:
        print(json.dumps({"kind": "refused", "problem": str(problem)}), file=lines, flush=True)


if __name__ == "__main__":
    sys.exit(main())
