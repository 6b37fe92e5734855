"""The words that start a command: `minddpm train`, or `python examples/train_mnist.py`."""

import sys
from pathlib import Path

_minddpm: list[str] = []  # the words before the name of a command, if minddpm starts it


def enter(command: str) -> None:
    """Store that minddpm starts this command, and leave only its options in sys.argv[1:]."""
    script = Path(sys.argv[0])
    _minddpm[:] = [sys.executable, "-m", "minddpm"] if script.stem == "__main__" else [str(script)]
    sys.argv = [f"minddpm {command}", *sys.argv[2:]]


def words() -> list[str]:
    """Return the words that start this command again, without its options."""
    if _minddpm:
        return [*_minddpm, sys.argv[0].split()[1]]
    return [sys.executable, sys.argv[0]]


def words_of(command: str) -> list[str]:
    """Return the words that start another command, whose example has the same name."""
    if _minddpm:
        return [*_minddpm, command]
    return [sys.executable, str(Path(sys.argv[0]).with_name(f"{command}.py"))]
