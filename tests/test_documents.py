"""The documents: links lead to files, quotations and numbers are current, the README is short."""

import re
import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

import minddpm
import tour
from quotations import QuotationError, code_lines, quotation

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for path in ROOT.rglob("*.md")
    if not {".venv", ".git"} & set(path.relative_to(ROOT).parts)
    and "site-packages" not in str(path)
)
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")
# Documents of docs/tour with a translation in docs/vi, by number or name.
TRANSLATED = ["01", "02", "03", "04", "04b", "09", "09b", "10", "10b", "slides"]
# Files of minddpm/diffusion that the tour quotes to the last line.
COMPLETE = ("algorithms", "bound", "decoder", "forward", "losses", "reverse", "schedules")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(document):
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
    for target in LINK.findall(prose):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links {target}"


@pytest.mark.parametrize("document", tour.documents(), ids=lambda path: path.name)
def test_every_link_to_a_section_leads_to_its_heading(document):
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
    for target, section in re.findall(r"\]\(([^)#\s:]*)#([^)\s]+)\)", prose):
        assert section in sections(document.parent / target if target else document)


def sections(document):
    """Return the names that GitHub gives to the headings."""
    prose = re.sub(r"```.*?```", "", document.read_text(), flags=re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.M)
    return [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


@pytest.mark.parametrize("document", tour.documents(), ids=lambda path: path.name)
def test_quotations_and_numbers_are_current(document):
    """If this fails: python docs/tour.py --write."""
    assert tour.refreshed(document.read_text(), document.parent)[1] == []


def test_these_documents_are_translated():
    assert sorted(map(short_name, (ROOT / "docs/vi").glob("[!R]*.md"))) == TRANSLATED


def short_name(document):
    """Return the number of a chapter, or the name of another document."""
    return document.stem.split("-")[0]


@pytest.fixture(params=TRANSLATED)
def pair(request):
    """Return an original and its translation."""
    return [
        next((ROOT / "docs" / folder).glob(f"{request.param}[-.]*")) for folder in ("tour", "vi")
    ]


def test_a_translation_has_the_markers_formulas_and_figures_of_its_original(pair):
    original, translation = (skeleton(document.read_text()) for document in pair)
    assert translation == original


def skeleton(text):
    """Return the comments (markers, setup), display formulas, folds and figures, in order."""
    found = r"<!--.*?-->|^\$\$$.*?^\$\$$|^</?details>$|\w+\.(?:png|svg)"
    return re.findall(found, text, re.S | re.M)


def test_the_tables_of_a_translation_have_the_rows_of_its_original(pair):
    """The same links, formulas, code and numbers: the map from the lecture slides is such rows."""
    original, translation = (list(rows(document)) for document in pair)
    assert translation == original


def rows(document):
    for row in re.findall(r"^\|.*", document.read_text(), re.M):
        text = LINK.sub("", re.sub(r"<!--.*?-->", "", row))
        yield goals(row, document), re.findall(r"\$[^$]+\$|`[^`]+`|\d[\d.]*", text.replace(",", ""))


def test_a_translation_has_the_links_of_its_original(pair):
    original, translation = (set(goals(document.read_text(), document)) for document in pair)
    assert original - translation == set()


def goals(text, document):
    """Return where the links lead: the file, or a document's short name, and a section's place."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        file, _, section = target.partition("#")
        path = (document.parent / file).resolve() if file else document
        if path.suffix == ".md" and path.parent.name in ("tour", "vi"):
            found.append((short_name(path), section and sections(path).index(section)))
        else:
            found.append((target if "://" in target else path, section))
    return found


def test_what_is_not_current_is_reported_and_refreshed():
    text = """
<!-- setup
n = 1
-->
<!-- quote: minddpm/diffusion/losses.py LOSSES -->
[`minddpm/diffusion/losses.py`](../minddpm/diffusion/losses.py), `LOSSES`:
```python
LOSSES = ("simple", "vlb")
```
<!-- /quote -->
There are <!-- number: n + 1 -->3<!-- /number --> and <!-- number: n -->1<!-- /number -->.
"""
    new, stale = tour.refreshed(text, ROOT / "docs")
    assert stale == ["11: n + 1", "5: minddpm/diffusion/losses.py LOSSES"]
    assert new == text.replace('"vlb")', '"vlb", "hybrid")').replace(">3<", ">2<")
    assert tour.refreshed(new, ROOT / "docs") == (new, [])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- quote: minddpm/nothing.py -->\n<!-- /quote -->", "give PATH NAME"),
        ("<!-- quote: README.md a-b -->\n<!-- /quote -->", "give PATH NAME"),
        ("<!-- quote: minddpm/random.py nothing -->\n<!-- /quote -->", "defined 0 times"),
        ('<!-- quote: minddpm/random.py from "n =" to "n" -->\n<!-- /quote -->', "2 lines begin"),
        ('<!-- quote: minddpm/random.py uniform from "n =" to "x" -->\n<!-- /quote -->', "no line"),
        ("<!-- quote: minddpm/random.py -->\n<!-- quote: a.py -->\n<!-- /quote -->", "not closed"),
        ("one <!-- number: 1 -->\n", "not closed"),
        ("one <!-- number: 1 / 0 -->1<!-- /number -->", "division by zero"),
        ("one\n<!-- number: 1 -->1<!-- /number -->", "begins a line"),
    ],
)
def test_a_wrong_marker_is_refused(text, message):
    with pytest.raises(QuotationError, match=message):
        tour.refreshed(text, ROOT)


def test_a_method_is_quoted_with_or_without_its_docstring():
    what = "minddpm/diffusion/forward.py ForwardProcess.q_sample"
    whole = quotation(what).code().split("\n")
    bare = quotation(f"{what} without docstring").code().split("\n")
    assert bare[0] == whole[0] == "def q_sample(self, x0: Array, t: Any, noise: Array) -> Array:"
    assert whole[1].startswith('    """')
    assert bare[1:] == whole[-2:]


def test_a_decorator_and_the_comment_above_a_definition_are_quoted():
    assert quotation("minddpm/diffusion/decoder.py _coefficients").code().startswith("@cache\ndef")
    spacings = quotation("minddpm/diffusion/sampling/steps.py SPACINGS").code()
    assert spacings.startswith("# Each returns S of the T timesteps")
    assert spacings.endswith("\n}")


def test_a_cuda_kernel_is_quoted_from_its_comment_to_its_brace():
    what = "kernels/cuda/pointwise.cu silu_backward"
    code = quotation(what).code()
    assert code.startswith("//")
    assert code.endswith("\n}")
    assert code.count("\n}") == 1
    assert code.endswith(quotation(f"{what} without docstring").code())
    assert not quotation(f"{what} without docstring").code().startswith("//")


def test_comments_docstrings_and_imports_are_no_code():
    path = "minddpm/diffusion/losses.py"
    lines = (ROOT / path).read_text().split("\n")
    code = [lines[i - 1].strip() for i in sorted(code_lines(path))]
    assert code[:2] == ['LOSSES = ("simple", "vlb", "hybrid")', lines[14]]
    assert not [line for line in code if line.startswith(("#", "import", "from", '"""'))]
    assert code[-1] == "return self._mix(noise, t, x0, a, b)"


def test_the_spine_is_quoted():
    coverage = tour.coverage()
    for name in COMPLETE:
        code, quoted, _ = coverage[f"minddpm/diffusion/{name}.py"]
        assert code - quoted == set(), (
            f"{name}: quote these lines in docs/tour, or mend its markers"
        )


@pytest.mark.parametrize("page", tour.pages(), ids=lambda path: path.name)
def test_a_page_of_the_tour_takes_10_to_20_minutes(page):
    """If this fails: fold what a first reader can do without, or make two pages of one."""
    assert 10 <= tour.minutes(page.read_text()) <= 20


def test_words_and_code_take_time_but_not_folded_parts_and_markers():
    read = "# A title\n\n" + "word | -- $x = 1$\n" * 66 + "```sh\n" + "a b c\n\n" * 80 + "```\n"
    assert tour.minutes(read) == 1 + 2
    folded = f"<details>\n<summary>Why?</summary>\n\n{read}\n</details>\n"
    assert tour.minutes(f"{folded}<!-- setup\na = 1\n-->\n{read}{folded}") == 1 + 2


@pytest.mark.parametrize("document", tour.documents(), ids=lambda path: path.name)
def test_markdown_leaves_the_formulas_as_they_are(document):
    """GitHub may read a backslash, an underscore or an asterisk before it reads a formula."""
    prose = re.sub(r"```.*?```|`[^`]*`|<!-- .*? -->", "", document.read_text(), flags=re.S)
    formula = re.compile(r"\$\$.*?\$\$|\$[^$]+\$", re.S)
    for found in formula.findall(prose):
        assert not re.search(r"\\[^A-Za-z]|[^A-Za-z0-9]_|[*<>`]", found), found
    # It reads a formula only between spaces and punctuation.
    around = re.findall(r"\S+\0|\0\S+", formula.sub("\0", prose))
    assert [text for text in around if not re.fullmatch(r"\(?\0[.,;:)?]*", text)] == []


def test_everything_that_is_left_out_exists():
    for what in tour.LEFT_OUT:
        assert quotation(what).pieces


def test_the_command_reports_refreshes_and_prints_the_coverage(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tour.py", *arguments])
        return tour.main(), capsys.readouterr().out

    assert tour.ranges({1, 2, 4, 8}, {1, 2, 4, 7, 8, 9}) == "1-4, 8"
    code, table = run("--coverage")
    assert code == 0
    assert re.search(r"\d+ +100% +0%  minddpm/diffusion/losses.py\n +\d+ +\d+%", table)
    code, table = run("--minutes")
    assert code == 0
    assert re.search(r"^1\d\.\d  04-the-network.md\n1\d\.\d  04b-", table, re.M)
    (tmp_path / "README.md").write_text("One <!-- number: 1 + 1 -->3<!-- /number -->.\n")
    monkeypatch.setattr(tour, "ROOT", tmp_path)
    assert run() == (1, "README.md:1: 1 + 1\n")
    assert run("--write") == (0, "README.md:1: 1 + 1 (refreshed)\n")
    assert run() == (0, "")


def test_the_figures_are_those_that_their_scripts_draw(digits, tmp_path, monkeypatch):
    folder = ROOT / "docs" / "tour"
    for script, options in (("figures", ["--data-dir", str(digits)]), ("figures_sampling", [])):
        monkeypatch.setattr(sys, "argv", [f"{script}.py", "--out", str(tmp_path), *options])
        runpy.run_path(str(folder / f"{script}.py"), run_name="__main__")
    kept = image_sizes(folder)
    del kept["steps.png"]  # by examples/experiments.py
    assert image_sizes(tmp_path) == kept


def image_sizes(folder):
    sizes = {}
    for path in folder.glob("*.png"):
        with Image.open(path) as image:
            sizes[path.name] = image.size
    return sizes


def test_the_changelog_begins_with_the_version():
    versions = re.findall(r"^## ([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert versions[0] == minddpm.__version__
    assert len(versions) == len(set(versions))


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
