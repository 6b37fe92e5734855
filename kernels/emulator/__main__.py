"""python -m minddpm.kernels.emulator profile FILE.cu RUN: write a page of what each line costs.

RUN is a launch, written as in CUDA, or several. [1024] is an array of 1024 random numbers, of zeros
if they are integers; 0 is a null pointer:

    python -m minddpm.kernels.emulator profile copy.cu "copy<<<2, 64>>>([1024], [1024], 1024)"

Or RUN is a Python program that calls minddpm's kernels of this file:

    python -m minddpm.kernels.emulator profile kernels/cuda/norm.cu program.py
"""

import argparse
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from minddpm.errors import InputError
from minddpm.kernels.emulator import Library, notation
from minddpm.kernels.emulator.cupy_on_cpu.cuda import profiling
from minddpm.kernels.emulator.page import library_page, page


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m minddpm.kernels.emulator",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["profile"])
    parser.add_argument("file", type=Path, help="the .cu file")
    parser.add_argument("run", nargs="+", help="launches, or one Python program")
    parser.add_argument("--page", type=Path, help="the page to write (default: FILE.html)")
    args = parser.parse_args()
    out = args.page or Path(f"{args.file.stem}.html")
    try:
        text = (_of_program if args.run[0].endswith(".py") else _of_launches)(args.file, args.run)
        out.write_text(text, encoding="utf-8")
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(out)


def _of_launches(file: Path, launches: Sequence[str]) -> str:
    try:
        library = Library(file.read_text(encoding="utf-8"), file, mode="profile")
        for launch in launches:
            notation.run(library, launch)
    except RuntimeError as error:  # it does not compile, or does something invalid
        sys.exit(f"error: {error}")
    return library_page(library, launches)


def _of_program(file: Path, run: Sequence[str]) -> str:
    source = file.read_text(encoding="utf-8")
    os.environ["MINDDPM_CUDA"] = "emulate"
    sys.argv = list(run)
    with profiling() as (lines, operations):
        runpy.run_path(run[0], run_name="__main__")
    if not lines:
        raise InputError(
            f"{run[0]} launched no kernel in mode profile: call one, and leave emulation.mode."
        )
    return page(file, source, lines, operations, [" ".join(run)])


if __name__ == "__main__":
    main()
