"""Check the exercises: one by its number, or all of them.

python examples/exercises/check.py 3    # passed, or what went wrong
python examples/exercises/check.py      # a table of all, and which one is next
python examples/exercises/check.py 18 --page copy.html    # a kernel's lines with what they cost
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import minddpm
from checker import cuda, diffusion, gradients
from checker.run import NOT_STARTED, PASSED, Result, run, run_kernel, time_limit
from minddpm.commands import cli
from minddpm.errors import InputError

HERE = Path(__file__).resolve().parent
_FILES = sorted(HERE.glob("*/[0-9][0-9]_*"), key=lambda file: file.name)
FILES = {int(file.name[:2]): file for file in _FILES}
CHECKS: dict[str, ModuleType] = {"diffusion": diffusion, "gradients": gradients, "cuda": cuda}
SECONDS = 120  # after which a check is stopped: the longest takes about 20


def check(number: int, file: Path | None = None, page: Path | None = None) -> Result:
    """Run the check of an exercise on its file, or on another one.

    page: file for a kernel's profile. Raises InputError for a number that no exercise has, for a
    page of an exercise in Python, and where a kernel needs a compiler.
    """
    if number not in FILES:
        raise InputError(f"there is no exercise {number}: choose 1 .. {max(FILES)}.")
    minddpm.set_backend("numpy")
    exercise = FILES[number]
    of_this: Callable = getattr(CHECKS[exercise.parent.name], exercise.stem[3:])
    file = file or exercise
    kernel = exercise.suffix == ".cu"
    if page and not kernel:
        raise InputError(f"exercise {number} is no kernel: --page draws exercises 17 to 24.")
    with time_limit(file, SECONDS):
        return run_kernel(of_this, file, page) if kernel else run(of_this, file)


def show(number: int, page: Path | None) -> int:
    """Print the result of one exercise; return the exit code."""
    result = check(number, page=page)
    print(f"{FILES[number].stem}: {result.state}")
    if result.state == PASSED:
        if number + 1 in FILES:
            print(f"next: {path(number + 1)}")
        return 0
    if result.state == NOT_STARTED:
        print(f"replace the TODO in {path(number)}; hints are at the end of the file")
    if result.message:
        print(result.message)
    return 1


def show_all() -> int:
    """Print the state of every exercise; return the exit code."""
    first, track = None, None
    for number, file in FILES.items():
        if file.parent.name != track:
            track = file.parent.name
            print(track)
        try:
            state = check(number).state
        except InputError as error:
            state = f"not checked: {error}"
        print(f"  {file.stem:<24} {state}", flush=True)
        first = number if first is None and state != PASSED else first
    if first is None:
        print("all passed")
        return 0
    print(f"next: {path(first)}")
    return 1


def path(number: int) -> str:
    """Return the file of an exercise as a reader would type it."""
    file = FILES[number]
    return str(file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("number", type=int, nargs="?", help="of the exercise (default: all)")
    parser.add_argument("--page", type=Path, help="write what a kernel's lines cost, as HTML")
    args = parser.parse_args()
    if args.number is None and args.page:
        raise InputError("--page needs the number of an exercise, 17 to 24.")
    return show_all() if args.number is None else show(args.number, args.page)


if __name__ == "__main__":
    sys.exit(cli.run(main))
