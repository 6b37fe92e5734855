"""The site: it builds without a warning, no link in it is dead, and nothing comes from outside."""

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import check_page, needs_chromium

ROOT = Path(__file__).parents[1]
COMMAND = "sphinx-build -W -j auto -c docs . "


class Page(HTMLParser):
    """The anchors of a page, where its links lead, and what a browser loads to show it."""

    def __init__(self, path: Path):
        super().__init__()
        self.anchors, self.links, self.loads = {""}, set(), set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.anchors |= {values[name] for name in ("id", "name") if values.get(name)}
        if "src" in values:
            self.loads.add(values["src"])
        if "href" in values:
            navigates = tag == "a" or values.get("rel") in ("index", "search", "next", "prev")
            (self.links if navigates else self.loads).add(values["href"])


def problems(site: Path) -> list[str]:
    """Return a line for each dead link, and for each address outside that a page loads."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        where = path.relative_to(site)
        for target in page.links | page.loads:
            scheme, host, file, _, anchor = urlsplit(target)
            if scheme or host:
                if target in page.loads and scheme != "data":
                    found.append(f"{where} loads {target}")
                continue
            goal = (path.parent / unquote(file)).resolve() if file else path
            if not goal.is_file():
                found.append(f"{where}: no file {target}")
            elif goal in pages and unquote(anchor) not in pages[goal].anchors:
                found.append(f"{where}: no anchor {target}")
    for path in site.rglob("*.css"):
        loaded = re.findall(r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^)\"']+)", path.read_text())
        found += [f"{path.relative_to(site)} loads {target}" for target in loaded]
    return sorted(found)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    if not importlib.util.find_spec("sphinx"):
        pytest.skip('pip install -e ".[docs]"')
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", *COMMAND.split()[1:], folder / "pages"]
    subprocess.run([*command, "-q", "-d", folder / "doctrees"], cwd=ROOT, check=True)
    return folder / "pages"


def test_the_documented_command_builds_it():
    for name in ("README.md", "CONTRIBUTING.md"):
        assert f"{COMMAND}build/site" in (ROOT / name).read_text()


def test_links_lead_somewhere_and_nothing_comes_from_outside(site):
    assert problems(site) == []


def test_a_page_shows_what_github_shows(site):
    chapter = (site / "docs" / "tour" / "01-an-image-becomes-noise.html").read_text()
    assert not re.search("<!-- *(/?quote|/?number|setup)|def chained", chapter)
    assert r"\(x_0, x_1, \dots, x_T\)" in chapter  # a formula, as MathJax takes it
    assert "<summary>" in chapter
    assert "minddpm/diffusion/forward.py.html" in chapter
    start = (site / "index.html").read_text()
    assert re.search(r'href="_downloads/\w+/minddpm_on_gpu.ipynb"', start)  # no page: a file
    assert start == (site / "README.html").read_text()


def test_a_source_file_has_its_documentation_and_its_code(site):
    page = (site / "minddpm" / "diffusion" / "forward.py.html").read_text()
    assert 'id="minddpm.diffusion.forward.ForwardProcess.q_sample"' in page
    assert "x_t = sqrt(ac_t) x0 + sqrt(1 - ac_t) noise; equation 4." in page
    assert "posterior_mean_coef1" in page
    page = (site / "minddpm" / "diffusion" / "losses.py.html").read_text()
    assert "\nvlb     T L_t (bound.py): its mean" in page  # columns stay
    page = (site / "minddpm" / "diffusion" / "sampling" / "steps.py.html").read_text()
    assert ">x_{t-1} = k0 pred_x0 + kx x_t + ko prediction + sigma z<" in page  # and lines


@needs_chromium
@pytest.mark.parametrize("name", ["index", "docs/tour/01-an-image-becomes-noise", "docs/results"])
def test_a_page_opens_in_a_browser(site, tmp_path, name):
    check_page(site / f"{name}.html", tmp_path / "profile")


def test_dead_links_and_foreign_addresses_are_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here"></a><a href="b.html#there"></a><a href="c.html"></a>'
        '<a href="https://arxiv.org"></a><img src="a.png"><img src="data:image/png;base64,">'
        '<script src="https://cdn.example/x.js"></script><link rel="stylesheet" href="s.css?v=1">'
    )
    (tmp_path / "b.html").write_text('<a href="a.html#here"></a><a href="a.html"></a>')
    (tmp_path / "s.css").write_text("@font-face { src: url('//fonts.example/f.woff') }")
    assert problems(tmp_path) == [
        "a.html loads https://cdn.example/x.js",
        "a.html: no anchor b.html#there",
        "a.html: no file a.png",
        "a.html: no file c.html",
        "s.css loads //fonts.example/f.woff",
    ]
