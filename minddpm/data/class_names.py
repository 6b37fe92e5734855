"""The names of classes: their order, and how they are printed."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

MAX_CLASSES = 2**16
LISTED = 12  # the most names in one message


def natural_order(names: Iterable[str]) -> list[str]:
    """Sort names with their numbers by value: 1, 2, 10 and a2, a10; equal values as text."""
    return sorted(names, key=_natural_key)


def _natural_key(name: str) -> tuple[list[Any], str]:
    # Text and digits alternate, so that text is compared with text and a number with a number.
    parts: list[Any] = re.split("([0-9]+)", name)
    parts[1::2] = map(int, parts[1::2])
    return parts, name


def printable(name: str) -> str:
    r"""Return the name with \ escapes for what cannot be printed or stored: newlines, raw bytes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def listing(words: Sequence[str]) -> str:
    """Return the words with commas between them; the middle of a long list is left out."""
    if len(words) <= LISTED:
        return ", ".join(words)
    return f"{', '.join(words[: LISTED - 2])}, ... ({len(words)} in all), {words[-1]}"
