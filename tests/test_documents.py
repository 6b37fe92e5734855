"""The documents: links lead to files, quotations stand in the code, the README stays short."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", ".git"} & set(path.relative_to(ROOT).parts)
    and "site-packages" not in str(path)
)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
QUOTED = re.compile(r"<!-- quoted: (\S+) -->\n```python\n(.*?)```", re.S)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(document):
    for target in LINK.findall(document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links {target}"


def test_what_the_readme_quotes_is_the_code():
    quoted = QUOTED.findall((ROOT / "README.md").read_text())
    assert quoted
    for file, code in quoted:
        assert code in (ROOT / file).read_text()


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
