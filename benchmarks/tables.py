"""Write Markdown tables between a pair of markers in a file.

<!-- benchmark:unet -->
(what readme_tables.py writes)
<!-- /benchmark -->
"""

import re
from collections.abc import Generator
from pathlib import Path

from minddpm.commands.cli import markdown as markdown
from minddpm.errors import InputError

ROOT = Path(__file__).parent.parent
# Rows take long to measure: the generator yields between them for a progress bar, then returns the
# head and the rows.
Table = Generator[None, None, tuple[list[str], list[list[str]]]]


def cells(line: str) -> list[str]:
    """Return the cells of one line of a Markdown table."""
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def replace(text: str, name: str, table: str) -> str:
    """Return text with the table between the markers of this name.

    Raises InputError unless the text has that pair of markers exactly once.
    """
    pattern = re.compile(rf"(<!-- benchmark:{re.escape(name)} -->\n).*?(<!-- /benchmark -->)", re.S)
    new, count = pattern.subn(lambda found: f"{found[1]}{table}\n{found[2]}", text)
    if count != 1:
        raise InputError(
            f"the markers of table {name!r} occur {count} times: put <!-- benchmark:{name} --> and "
            "<!-- /benchmark --> around the table once."
        )
    return new


def write(path: Path, tables: dict[str, str]) -> None:
    """Write the tables into a file: all of them, or none if a marker is missing."""
    text = path.read_text()
    for name, table in tables.items():
        text = replace(text, name, table)
    path.write_text(text)
