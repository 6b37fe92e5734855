"""Sphinx extension: pages of source files, tables of contents, docstrings as they are written.

The page of a Python module has its documentation, from the docstrings, and then the file itself.
"""

import importlib
import inspect
import re
import shutil
from collections.abc import Iterable
from itertools import groupby, pairwise
from textwrap import dedent, indent
from types import ModuleType
from typing import Any

from docutils import nodes
from pygments.lexers import find_lexer_class_for_filename
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.parsers import RSTParser

PACKAGES = {"minddpm": "minddpm", "kernels": "minddpm.kernels"}
# In the sidebar: patterns of the pages below each caption.
CONTENTS = {
    "Learn": [r"docs/\w+/README", "examples/exercises/README"],
    "Documents": [r"kernels/(\w+/)*README", r"docs/[\w-]+", "CONTRIBUTING", "CHANGELOG"],
    "API and source": [f"{package}/__init__.py" for package in PACKAGES],
}
# The longest line of a docstring, without its indentation; of a class or a function it is 96.
WIDTHS = {"module": 100, "method": 92}


class SourceParser(RSTParser):
    """Parse a source file as the page that shows it."""

    supported = ("source",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        env = document.settings.env
        super().parse(page(env.docname, inputstring, env.found_docs), document)


def page(path: str, text: str, pages: Iterable[str]) -> str:
    """Return the page of a file in reStructuredText."""
    top, *rest = path.split("/")
    title = path.removesuffix("__init__.py")
    # orphan: not every file is in the sidebar.
    parts = [":orphan:", f"``{title}``\n####{'#' * len(title)}"]
    if top in PACKAGES and path.endswith(".py"):
        module = ".".join([PACKAGES[top], *rest]).removesuffix(".py").removesuffix(".__init__")
        options = ["members", "undoc-members", "ignore-module-all"]
        parts.append(directive("automodule", module, options))
        if path.endswith("/__init__.py"):
            folder = re.escape(title)
            patterns = [rf"{folder}\w+/__init__\.py", rf"{folder}(?!__)\w+\.(py|cuh?)"]
            files = directive("toctree", "", ["hidden"], matching(pages, patterns))
            parts += [exports(module), files]
        parts.append("Source\n======")
    language = find_lexer_class_for_filename(path).aliases[0]
    return "\n\n".join([*parts, directive("code-block", language, ["linenos"], text)])


def exports(module: str) -> str:
    """Return a list of what a package offers: the first paragraph about it, and a link to it."""
    package = importlib.import_module(module)
    lines = []
    for name in getattr(package, "__all__", []):
        value = getattr(package, name)
        if isinstance(value, ModuleType):
            home = value.__name__
        elif hasattr(value, "__qualname__") and value.__module__ != module:
            home = f"{value.__module__}.{value.__qualname__}"
        else:
            continue
        summary = (inspect.getdoc(value) or "").split("\n\n")[0].replace("\n", " ")
        lines.append(f"- :py:obj:`{name} <{home}>`: {escape(summary)}")
    return "\n".join(lines)


def directive(name: str, argument: str, options: list[str], content: str = "") -> str:
    head = "".join(f"\n   :{option}:" for option in options)
    return f".. {name}:: {argument}{head}\n\n{indent(content, '   ')}"


def matching(pages: Iterable[str], patterns: list[str]) -> str:
    """Return the pages that fit one of the patterns, in the order of the patterns."""
    order = sorted(pages)
    found = [page for pattern in patterns for page in order if re.fullmatch(pattern, page)]
    return "\n".join(entry(page) for page in found)


def entry(page: str) -> str:
    """Return an entry for the sidebar: a document under its title, others under their names."""
    *_, folder, name = page.split("/") if "/" in page else ("", page)
    if "." not in name:
        return f"/{page}"
    return f"{f'{folder}/' if name == '__init__.py' else name} </{page}>"


def add_contents(app: Sphinx, name: str, source: list[str]) -> None:
    """Add the tables of contents to the first page, and one to each README in a folder of docs/."""
    tables = {}
    if name == "README":
        tables = CONTENTS
    elif re.fullmatch(r"docs/\w+/README", name):
        tables = {"": [name.replace("README", r"(?!README)[\w-]+")]}
    for caption, patterns in tables.items():
        options = f":hidden:\n:caption: {caption}" if caption else ":hidden:"
        entries = matching(app.env.found_docs, patterns)
        source[0] += f"\n```{{toctree}}\n{options}\n\n{entries}\n```\n"


def drop_comments(app: Sphinx, document: nodes.document) -> None:
    """Remove the HTML comments, which mark quotations and numbers."""
    for node in list(document.findall(nodes.raw)):
        if node.astext().startswith("<!--"):
            node.parent.remove(node)


def offer_files(app: Sphinx, document: nodes.document) -> None:
    """Make a link to a file that has no page, such as an image or a notebook, a download."""
    for link in list(document.findall(addnodes.pending_xref)):
        if link["refdomain"] == "doc" and link["reftarget"] not in app.env.found_docs:
            target = f"/{link['reftarget']}"
            link.replace_self(addnodes.download_reference("", "", *link, reftarget=target))


def show_as_written(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Turn a docstring, plain text with `code`, into reStructuredText that shows it as it is."""
    text = "\n".join(lines).strip()
    if text.startswith("Alias for field number"):  # Python's, of a NamedTuple
        text = ""
    parts = re.split(r"\n\s*\n", text)
    lines[:] = "\n\n".join(block(part, WIDTHS.get(what, 96)) for part in parts if part).split("\n")


def block(text: str, width: int) -> str:
    """Return a paragraph; columns, indented lines and intended line breaks stay as they are."""
    lines = text.split("\n")
    if any(re.search(r"\w  +\S", line) for line in lines if not line.startswith(" ")):
        return directive("code-block", "text", [], text)
    parts = []
    for indented, group in groupby(lines, lambda line: line.startswith(" ")):
        some = list(group)
        shown = directive("code-block", "text", [], dedent("\n".join(some)))
        parts.append(shown if indented else paragraph(some, width))
    return "\n\n".join(parts)


def paragraph(lines: list[str], width: int) -> str:
    """Join lines, except where one ends although the first word of the next would have fitted."""
    result = [lines[0]]
    for last, line in pairwise(lines):
        if len(f"{last} {line.split()[0]}") > width:
            result[-1] += f" {line}"
        else:
            result.append(line)
    lines = [escape(line) for line in result]
    return lines[0] if len(lines) == 1 else "\n".join(f"| {line}" for line in lines)


def escape(text: str) -> str:
    """Return text in which only `code` has a meaning."""
    parts = re.split(r"``?([^`]+)``?", text)
    parts[::2] = [re.sub(r"([\\*_|`])", r"\\\1", part) for part in parts[::2]]
    parts[1::2] = [f"``{part}``" for part in parts[1::2]]
    return "".join(parts)


def add_index(app: Sphinx, error: Exception | None) -> None:
    """Make the first page also index.html, which browsers and servers look for."""
    if error is None and app.builder.format == "html":
        shutil.copyfile(app.outdir / "README.html", app.outdir / "index.html")


def setup(app: Sphinx) -> dict[str, bool]:
    app.setup_extension("sphinx.ext.autodoc")
    app.add_source_parser(SourceParser)
    app.connect("source-read", add_contents)
    app.connect("doctree-read", drop_comments)
    app.connect("doctree-read", offer_files, priority=400)  # before Sphinx collects downloads
    app.connect("autodoc-process-docstring", show_as_written)
    app.connect("build-finished", add_index)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
