"""Try to break minddpm with damaged files and odd command lines; count how each input ends.

    python tests/campaign.py                                   # 100,000 inputs, under 15 minutes
    python tests/campaign.py --only .npz --inputs 2000
    python tests/campaign.py --write                           # the table into docs/reliability.md

An input may end in a result, or in one sentence (of a command: and exit code 2). Anything else is a
finding: it is named, its input is saved, and the exit code is 1. Linux only.
"""

import argparse
import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reliability.md"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100_000, help="in all (100,000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the inputs (0)")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help="targets, as the table names them"
    )
    parser.add_argument(
        "--first", type=int, default=0, help="index of each target's first input (0)"
    )
    parser.add_argument("--write", action="store_true", help="write the tables into the page")
    return parser.parse_args()


def main() -> int:
    import fuzz
    from report import table

    from tables import write

    args = parse()
    findings = []
    for name, part in {"fuzz": fuzz}.items():
        rows = part.run(args.seed, args.inputs / 100_000, args.only, args.first)
        print(f"\n{table(rows)}\n")
        findings += [line for row in rows for line in row.findings]
        if args.write:
            write(PAGE, {name: table(rows)})
    print("\n".join(findings) or "no findings")
    return 1 if findings else 0


if __name__ == "__main__":
    # One thread for each process; OpenBLAS reads this when it is loaded.
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    sys.path[:0] = [str(ROOT / "tests" / "reliability"), str(ROOT / "benchmarks")]
    from minddpm.commands import cli

    sys.exit(cli.run(main))
