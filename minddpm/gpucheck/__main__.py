"""Check every CUDA kernel on the GPU of this machine, and time them.

    python -m minddpm.gpucheck           # takes minutes; prints tables, writes gpucheck.json
    python -m minddpm.gpucheck --quick   # smaller sizes

Every function and every rung of the convolution is compared with the reference in float64;
sampling by a CUDA graph is compared with eager sampling, and a short training run with the same run
on the NumPy backend. If compute-sanitizer is on the PATH, it also checks the kernels. Then
rungs, training steps and sampling steps are timed with device events, next to plain CuPy and, if it
is installed, PyTorch.

With MINDDPM_CUDA=emulate the checks run without a GPU, at small sizes, and nothing is timed.
The exit code is 1 if a check failed, 2 for wrong use.
"""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

import minddpm
from minddpm.commands import cli
from minddpm.errors import InputError
from minddpm.gpucheck import machine
from minddpm.storage.json_files import write_json

DEFAULT = Path("gpucheck.json")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m minddpm.gpucheck",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help=f"file of all numbers (default: a new {DEFAULT})")
    parser.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    return parser.parse_args()


def main() -> int:
    args = parse()
    path = cli.new_file(args.json, DEFAULT)
    try:
        minddpm.set_backend("cupy")
    except InputError as problem:
        raise InputError(f"no GPU to check, and MINDDPM_CUDA is not emulate: {problem}") from None
    emulated = machine.is_emulated()
    quick = args.quick or emulated
    facts = machine.description()
    print(
        cli.markdown(["this machine", ""], [[name, text] for name, text in facts.items()]) + "\n",
        flush=True,
    )

    # Imported here, so that without a GPU the error is raised before these slow imports.
    from minddpm.gpucheck import checks, timings

    listed = [*checks.kernel_checks(quick), *checks.model_checks(quick)]
    rows = [check() for check in tqdm(listed, unit="check")]
    print(_check_table(rows) + "\n", flush=True)
    tools = machine.TOOLS if machine.sanitizer() and not emulated else ()
    verdicts = [machine.sanitized(tool) for tool in tqdm(tools, unit="tool", disable=not tools)]
    print(_sanitizer_lines(verdicts) + "\n", flush=True)
    times = [] if emulated else [task() for task in tqdm(timings.tasks(quick), unit="timing")]
    print(_timing_table(times) if times else "Nothing was timed: the emulator is not a GPU.")

    failed = sum(not one.ok for one in (*rows, *verdicts)) + sum(bool(t.problem) for t in times)
    write_json(path, _content(facts, quick, emulated, rows, verdicts, times))
    print(f"\n{failed} failed. Every number is in {path}.")
    return cli.FAILED if failed else 0


def _verdict(ok: bool) -> str:
    return "ok" if ok else "FAILED"


def _check_table(rows: list[Any]) -> str:
    head = ["compared with the reference", "largest error", "allowed", ""]
    lines = [
        [r.name, f"{r.error:.1e}", f"{r.tolerance:.0e}", f"{_verdict(r.ok)} {r.note}".strip()]
        for r in rows
    ]
    return cli.markdown(head, lines)


def _sanitizer_lines(verdicts: list[machine.Verdict]) -> str:
    lines = [f"compute-sanitizer, {v.tool}: {_verdict(v.ok)} ({v.summary})" for v in verdicts]
    return "\n".join(lines) or "compute-sanitizer did not run."


def _timing_table(times: list[Any]) -> str:
    lines = [
        [
            t.what,
            t.who,
            f"{t.milliseconds:.4f}" if t.milliseconds is not None else f"FAILED {t.problem}",
            f"{t.gflops:.0f}" if t.gflops else "",
        ]
        for t in times
    ]
    return cli.markdown(["device events, median", "who", "ms", "GFLOP/s, effective"], lines)


def _content(
    facts: dict[str, str], quick: bool, emulated: bool, rows: list[Any],
    verdicts: list[machine.Verdict], times: list[Any],
) -> dict[str, Any]:  # fmt: skip
    return {
        "machine": facts,
        "emulated": emulated,
        "quick": quick,
        "checks": [
            {**r._asdict(), "error": _number(r.error), "verdict": _verdict(r.ok)} for r in rows
        ],
        "sanitizer": [v._asdict() for v in verdicts],
        "timings": [{**t._asdict(), "gflops": t.gflops} for t in times],
    }


def _number(x: float) -> float | str:
    """Return x, or a string for nan and infinity, which JSON does not have."""
    return x if math.isfinite(x) else str(x)


if __name__ == "__main__":
    sys.exit(cli.run(main))
