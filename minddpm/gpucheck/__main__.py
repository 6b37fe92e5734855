"""Check every CUDA kernel on the GPU of this machine, and time them.

    python -m minddpm.gpucheck                # eight minutes at most; writes gpucheck.json
    python -m minddpm.gpucheck --seconds 120  # as much as fits into two minutes
    python -m minddpm.gpucheck --quick        # smaller sizes
    python -m minddpm.gpucheck --report a.html  # also drawn as a page

First the kernels are compiled, and every function and every rung of the convolution is compared
with the reference in float64; sampling by a CUDA graph with eager sampling, and a short training
run with the same run on the NumPy backend. Then training steps and sampling steps are timed with
device events, next to plain CuPy and, if it is installed, PyTorch; one step is taken apart, kernel
by kernel, beside what the card's multipliers, tensor cores and memory reach. A model is trained
for at most 90 seconds, its digits are judged, and drawn in a PNG file beside the JSON file. Then
come the rungs, one by one; if compute-sanitizer is on the PATH, it looks for accesses outside
arrays and for races; PyTorch's compiled steps come last.

Each result is printed as a line of JSON as soon as it is known, and kept in a file beside the JSON
file; the tables follow at the end. A kernel that hangs or ends its process costs its own row.

With MINDDPM_CUDA=emulate the checks run without a GPU, at small sizes, and nothing is timed.
The exit code is 1 if a check failed or a file was not written, 2 for wrong use.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from minddpm.commands import cli
from minddpm.commands.parser import CommandParser
from minddpm.errors import InputError
from minddpm.gpucheck import supervisor
from minddpm.gpucheck.page import page
from minddpm.gpucheck.tables import failures, of_kind, tables
from minddpm.storage.atomic import atomic_write
from minddpm.storage.json_files import write_json

DEFAULT = Path("gpucheck.json")
SECONDS = 480


def parse() -> argparse.Namespace:
    parser = CommandParser(__doc__, "check", name="python -m minddpm.gpucheck")
    (check,) = parser.groups
    check.add_argument("--json", type=Path, help=f"file of all numbers (default: a new {DEFAULT})")
    check.add_argument("--report", type=Path, metavar="FILE.html", help="draw the results, too")
    check.add_argument("--quick", action="store_true", help="smaller sizes, fewer rounds")
    check.add_argument(
        "--seconds", type=cli.positive, default=SECONDS,
        help=f"after which no row begins or goes on (default: {SECONDS})",
    )  # fmt: skip
    return parser.parse_args()


def main(worker: Sequence[str] = supervisor.WORKER) -> int:
    args = parse()
    path = cli.new_file(args.json, DEFAULT)
    if args.report is not None:
        cli.new_file(args.report, args.report)  # refused now, or not at all
    picture = cli.free_name(path.with_suffix(".png"))
    command = [*worker, "--picture", str(picture), *["--quick"] * args.quick]
    results = supervisor.results(args.seconds, worker=command)
    plan = next(results)  # raises before any file is made
    facts = [[name, text] for name, text in plan["machine"].items()]
    print(cli.markdown(["this machine", ""], facts) + "\n", flush=True)
    rows = []
    with Lines(cli.free_name(path.with_suffix(".jsonl"))) as lines:
        lines.keep(plan)
        for row in results:
            rows.append(row)
            lines.add(row)
    print("\n" + tables(plan, rows), flush=True)
    failed, ran = failures(rows), any(row["kind"] not in ("state", "not run") for row in rows)
    saved = _written(lambda: write_json(path, content(plan, rows, args.quick)))
    print(f"\n{failed} failed." + f" Every number is in {path}." * saved)
    if (report := args.report) is not None:
        drawn = page(plan, rows)
        if _written(lambda: write_page(report, drawn)):
            print(f"wrote {report}")
        else:
            saved = False
    return cli.FAILED if failed or not ran or not saved else 0


def write_page(path: Path, drawn: str) -> None:
    """Write the page. Raises InputError if that fails."""
    with atomic_write(path) as file:
        file.write(drawn.encode())


def _written(write: Callable[[], Any]) -> bool:
    """Return whether a file could be written; if not, say why: the rows have been printed."""
    try:
        write()
    except InputError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return False
    return True


class Lines:
    """Prints records, and keeps them in a file as long as it can be written."""

    def __init__(self, path: Path):
        self.path = path
        self._file: IO[str] | None = None

    def __enter__(self) -> "Lines":
        self._try(lambda: setattr(self, "_file", self.path.open("w")))
        return self

    def __exit__(self, *_: Any) -> None:
        if self._file is not None:
            self._try(self._file.close)

    def add(self, record: dict[str, Any]) -> None:
        """Print and keep a record."""
        print(json.dumps(record), flush=True)
        self.keep(record)

    def keep(self, record: dict[str, Any]) -> None:
        """Write a record to the file."""
        if self._file is not None:
            self._try(lambda: print(json.dumps(record), file=self._file, flush=True))

    def _try(self, write: Callable[[], Any]) -> None:
        try:
            write()
        except OSError as problem:  # a full disk must not cost the rows that are still to come
            if self._file is not None:
                with suppress(OSError):
                    self._file.close()
            self._file = None
            print(f"{self.path}: {problem.strerror}; the rows are printed only.", file=sys.stderr)


def content(plan: dict[str, Any], rows: list[dict[str, Any]], quick: bool) -> dict[str, Any]:
    """Return the content of the JSON file: without folders of this machine."""
    trained = of_kind(rows, "digits")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": plan["machine"],
        "emulated": plan["emulated"],
        "quick": quick or plan["emulated"],
        "checks": of_kind(rows, "check"),
        "sanitizer": of_kind(rows, "sanitizer"),
        "timings": of_kind(rows, "timing"),
        "steps": of_kind(rows, "step"),
        "compiled": of_kind(rows, "compile"),
        "resources": of_kind(rows, "resources"),
        "digits": [{**row, "picture": Path(row.get("picture", "")).name} for row in trained],
        "states": of_kind(rows, "state"),
        "not run": [row["name"] for row in rows if row["kind"] == "not run"],
    }


if __name__ == "__main__":
    sys.exit(cli.run(main))
