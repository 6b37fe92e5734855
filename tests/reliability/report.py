"""What a part of the campaign reports: rows of a Markdown table."""

from collections.abc import Sequence
from typing import NamedTuple

from minddpm.commands.cli import markdown


class Row(NamedTuple):
    """What was tried, how often, how it ended, and a line for each outcome that is not allowed."""

    name: str
    tried: int
    outcomes: dict[str, int]
    findings: list[str]


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
