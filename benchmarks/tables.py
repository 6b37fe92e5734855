"""Markdown tables, and where they go: between a pair of markers in a file.

<!-- benchmark:unet -->
(what report.py writes)
<!-- /benchmark -->
"""

import re
from pathlib import Path

from minddpm.commands.cli import markdown as markdown
from minddpm.errors import InputError


def cells(line: str) -> list[str]:
    """The cells of one line of such a table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def replace(text: str, name: str, table: str) -> str:
    """text with the table between the markers of this name.

    Raises InputError unless the text has that pair of markers exactly once.
    """
    pattern = re.compile(rf"(<!-- benchmark:{re.escape(name)} -->\n).*?(<!-- /benchmark -->)", re.S)
    new, count = pattern.subn(lambda found: f"{found[1]}{table}\n{found[2]}", text)
    if count != 1:
        raise InputError(
            f"the markers of table {name!r} stand {count} times: put <!-- benchmark:{name} --> and "
            "<!-- /benchmark --> around the place once."
        )
    return new


def write(path: Path, tables: dict[str, str]) -> None:
    """Put tables into a file, all or none of them."""
    text = path.read_text()
    for name, table in tables.items():
        text = replace(text, name, table)
    path.write_text(text)
