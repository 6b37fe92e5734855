"""Measure all libraries side by side in one process and write the tables of the documentation.

    python benchmarks/readme_tables.py                        # print all tables, about 30 minutes
    python benchmarks/readme_tables.py --only conv,operations # some of them
    python benchmarks/readme_tables.py --write                # and write them into the documents

All libraries have the same number of threads. glibc's allocator is set to keep freed memory, which
makes PyTorch about a tenth faster. --quick omits the libraries that take minutes to compile.
"""

import argparse
import os
import sys
from typing import Any

from tables import ROOT, markdown, write

TUNABLES = "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=17179869184"
# file: its tables. `summary` is an extract of `unet` and is not measured separately.
FILES = {
    "README.md": ("summary",),
    "docs/performance.md": ("machine", "unet", "avx2", "busy", "tasks", "growth", "start", "floor"),
    "docs/replay.md": ("replay",),
    "kernels/README.md": ("peak", "conv", "operations"),
}
NAMES = (
    "machine", "peak", "conv", "operations", "start", "unet", "avx2", "busy", "tasks", "growth",
    "replay", "floor",
)  # fmt: skip


def parse() -> argparse.Namespace:
    from minddpm.commands import cli

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="tables, separated by commas: " + ", ".join(NAMES))
    parser.add_argument("--quick", action="store_true", help="omit compilers and exporters")
    parser.add_argument("--write", action="store_true", help="write the tables into the documents")
    parser.add_argument("--threads", type=cli.positive, help="of each library (default: all)")
    return parser.parse_args()


def measured(table: Any, bar: Any) -> str:
    """Advance the bar at each yield of the table's generator; return the table as Markdown."""
    while True:
        try:
            next(table)
            bar.update()
        except StopIteration as end:
            return markdown(*end.value)


def main() -> int:
    from tqdm import tqdm

    import busy_table
    import growth_table
    import kernel_tables
    import minddpm
    import replay_table
    import unet_tables
    from minddpm.errors import InputError

    args = parse()
    names = args.only.split(",") if args.only else list(NAMES)
    if unknown := [name for name in names if name not in NAMES]:
        raise InputError(f"there is no table {unknown[0]!r}: choose from {', '.join(NAMES)}.")
    minddpm.set_backend("numba")
    minddpm.backend.set_threads(args.threads)
    tables = kernel_tables.TABLES | unet_tables.TABLES | busy_table.TABLES
    tables |= {"replay": replay_table.replay, "growth": growth_table.growth}
    done = {}
    with tqdm(unit="step") as bar:
        for name in names:
            bar.set_description(name)
            done[name] = measured(tables[name](args), bar)
            bar.write(f"\n{done[name]}")
    if "unet" in done:
        done["summary"] = unet_tables.summary(done["unet"])
    if args.write:
        for file, contents in FILES.items():
            if chosen := {name: done[name] for name in contents if name in done}:
                write(ROOT / file, chosen)
                print(f"wrote {file}: {', '.join(chosen)}")
    return 0


if __name__ == "__main__":
    # glibc reads its tunables when a process starts, so restart the process with them.
    if "GLIBC_TUNABLES" not in os.environ and sys.platform == "linux":
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.argv])
    from minddpm.commands import cli

    sys.exit(cli.run(main))
