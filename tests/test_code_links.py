"""Links to code: a link whose text is a name leads to the file that defines this name.

The map from the lecture slides to the code (docs/tour/slides.md) consists of such links.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import tour
from quotations import ROOT, QuotationError, quotation

NAMED = re.compile(r"\[`([\w.]+)`\]\(([^)#\s]+\.(?:py|cuh?))\)")
MAP = ROOT / "docs" / "tour" / "slides.md"


def links(text: str, folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and the file of each link to code, except where the name is the file's."""
    for name, target in NAMED.findall(re.sub(r"```.*?```", "", text, flags=re.S)):
        path = (folder / target).resolve().relative_to(ROOT)
        if name not in (path.name, path.stem):
            yield name, path


def undefined(text: str, folder: Path) -> list[str]:
    """Return the links whose file does not define their name."""
    wrong = []
    for name, path in links(text, folder):
        try:
            quotation(f"{path} {name}")
        except QuotationError as error:
            wrong.append(f"{name}: {error}")
    return wrong


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of each table. Markdown ends a cell at any |, in a formula or marker too."""
    blocks = re.findall(r"(?:^\|.*\n)+", text, re.M)
    return [[cells(row) for row in block.splitlines()] for block in blocks]


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def map_rows() -> list[list[str]]:
    """Return the numbered rows of the map, its formulas and figures."""
    found = tables(MAP.read_text())
    return [row for table in found for row in table[2:] if "test" in table[0][-1]]


@pytest.mark.parametrize("document", tour.documents(), ids=lambda path: path.name)
def test_a_name_is_defined_in_the_file_that_its_link_leads_to(document):
    assert undefined(document.read_text(), document.parent) == []


def test_a_name_without_a_definition_is_found():
    text = "[`noise`](../kernels/reference/noise.py), [`q_sample`](../kernels/reference/noise.py)"
    assert undefined(text, ROOT / "docs") == []
    assert undefined(text.replace("q_sample", "q_sampled"), ROOT / "docs") == [
        "q_sampled: kernels/reference/noise.py: q_sampled is defined 0 times: name another."
    ]


@pytest.mark.parametrize("document", tour.documents(), ids=lambda path: path.name)
def test_all_rows_of_a_table_have_the_same_number_of_cells(document):
    for table in tables(document.read_text()):
        assert {len(row) for row in table} == {len(table[0])}, table[0]


def test_the_map_numbers_its_rows_and_each_has_a_test():
    rows = map_rows()
    assert [int(row[0]) for row in rows] == list(range(1, 55))
    for row in rows:
        tests = [name for name, path in links(row[-1], MAP.parent) if path.parts[0] == "tests"]
        assert tests, row
        assert all(name.startswith("test_") for name in tests), row
