"""What a part of the campaign reports: rows of a Markdown table."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from minddpm.commands.cli import markdown
from minddpm.errors import InputError


class Row(NamedTuple):
    """What was tried, how often, how it ended, and a line for each outcome that is not allowed."""

    name: str
    tried: int
    outcomes: dict[str, int]
    findings: list[str]


def chosen_names(names: Iterable[str], only: Sequence[str] | None) -> list[str]:
    """Return all names, or those of `only`. Raises InputError if one of these is unknown."""
    names = list(names)
    if unknown := set(only or ()) - set(names):
        raise InputError(f"there is no {unknown.pop()!r}: choose from {', '.join(names)}.")
    return [name for name in names if only is None or name in only]


def table(rows: Sequence[Row]) -> str:
    """Return the rows and their sum as Markdown."""
    names = list(rows[0].outcomes)
    total = {name: sum(row.outcomes[name] for row in rows) for name in names}
    tried = sum(row.tried for row in rows)
    found = [line for row in rows for line in row.findings]
    body = [*rows, Row("all", tried, total, found)]
    cells = [
        [r.name, f"{r.tried:,}", *(f"{r.outcomes[n]:,}" for n in names), str(len(r.findings))]
        for r in body
    ]
    return markdown(["", "tried", *names, "findings"], cells)
