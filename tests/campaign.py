"""Try to break minddpm, and count how each attempt ends.

    python tests/campaign.py fuzz         # 100,000 damaged files and odd command lines
    python tests/campaign.py faults       # trainings meet 200 kills, full disks, a low memory limit
    python tests/campaign.py threads      # Python threads sample at once, 1,000 times
    python tests/campaign.py fuzz --only .npz --count 2000
    python tests/campaign.py fuzz --write # the table into docs/reliability.md

docs/reliability.md says what is allowed. Anything else is a finding: it is named (an input is
saved, too), and the exit code is 1. Linux only.
"""

import argparse
import importlib
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"
MODULES = {"fuzz": "fuzz", "faults": "faults", "threads": "python_threads"}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", nargs="?", choices=MODULES, default="fuzz", help="(fuzz)")
    parser.add_argument("--count", type=int, help="attempts (100,000 inputs, 200 kills, 1,000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the attempts (0)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="kinds of attempts")
    parser.add_argument("--first", type=int, help="fuzz: index of each target's first input (0)")
    parser.add_argument("--write", action="store_true", help="write the table into the page")
    args = parser.parse_args()
    if args.first is not None and args.part != "fuzz":
        parser.error("--first is for fuzz: leave it out.")
    return args


def main() -> int:
    from report import table

    from tables import write

    args = parse()
    part = importlib.import_module(MODULES[args.part])
    options = {} if args.first is None else {"first": args.first}
    rows = part.run(args.seed, args.count or part.COUNT, args.only, **options)
    print(f"\n{table(rows)}\n")
    if args.write:
        write(PAGE, {args.part: table(rows)})
    findings = [line for row in rows for line in row.findings]
    print("\n".join(findings) or "no findings")
    return 1 if findings else 0


if __name__ == "__main__":
    # One thread for each process; OpenBLAS reads this when it is loaded.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    sys.path[:0] = [str(ROOT / "tests" / "reliability"), str(ROOT / "benchmarks")]
    from minddpm.commands import cli

    sys.exit(cli.run(main))
