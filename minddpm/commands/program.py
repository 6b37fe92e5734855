"""The words that start a command: `minddpm train`, or `python examples/train_mnist.py`."""

import sys
from pathlib import Path

_minddpm: list[str] = []  # `minddpm` and the command's name, if minddpm starts it


def enter(command: str) -> None:
    """Store that minddpm starts this command, and remove its name from sys.argv."""
    script = Path(sys.argv[0])
    start = [sys.executable, "-m", "minddpm"] if script.stem == "__main__" else [str(script)]
    _minddpm[:] = [*start, command]
    del sys.argv[1]


def name(otherwise: str | None = None) -> str:
    """Return the command's name for messages; otherwise: unless minddpm starts it."""
    if _minddpm:
        return f"minddpm {_minddpm[-1]}"
    return otherwise or Path(sys.argv[0]).name


def words() -> list[str]:
    """Return the words that start this command again, without its options."""
    return list(_minddpm) or [sys.executable, sys.argv[0]]


def words_of(command: str) -> list[str]:
    """Return the words that start another command, whose example has the same name."""
    if _minddpm:
        return [*_minddpm[:-1], command]
    return [sys.executable, str(Path(sys.argv[0]).with_name(f"{command}.py"))]
