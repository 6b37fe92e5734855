"""What all commands share: one clear sentence for bad input, exit codes, free file names."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from minddpm.errors import InputError
from minddpm.training import TrainingDivergedError

BAD_INPUT, DIVERGED, INTERRUPTED = 2, 1, 130


def run(main: Callable[[], int | None]) -> int:
    """main's exit code; an expected failure is one line on stderr instead of a traceback."""
    try:
        return main() or 0
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return BAD_INPUT
    except TrainingDivergedError as error:
        print(f"error: {error}", file=sys.stderr)
        return DIVERGED
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED


def add_backend(parser: argparse.ArgumentParser) -> None:
    """The flag --backend."""
    parser.add_argument(
        "--backend",
        default="auto",
        help="numpy, numba, cupy, or auto: cupy where a GPU answers, else numba (default: auto)",
    )


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def free_name(path: Path) -> Path:
    """path, or path-2, path-3, ... where that is taken: nothing is overwritten unasked."""
    candidate, number = path, 1
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return candidate
