"""Find code by name, for the documents that quote it (tour.py).

A quotation is one line of text:

    PATH                                the whole file
    PATH NAME ...                       definitions: function, Class.method, VARIABLE
    PATH NAME ... without docstring     the same without docstrings
    PATH [NAME] from "TEXT" to "TEXT"   from the line that begins with the first text to the next
                                        line that begins with the second

Python is parsed. In C++ and CUDA a NAME is a function, found by its parentheses and braces; its
"docstring" is the comment above it.
"""

import ast
import io
import re
import textwrap
import tokenize
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
LANGUAGES = {".py": "python", ".cu": "cuda", ".cuh": "cuda", ".cc": "cpp", ".h": "cpp"}
SPECIFICATION = re.compile(
    r"(?P<path>\S+)(?P<names>(?: [\w.]+)*?)(?P<bare> without docstring)?"
    r'(?: from "(?P<first>.+?)" to "(?P<last>.+?)")?'
)
C_TEXT = re.compile(r'//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"', re.S)  # comments and strings
Parsed = ast.Module | ast.ClassDef | ast.FunctionDef
NOT_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip


class QuotationError(Exception):
    """A quotation names something that does not exist, or exists twice."""


class Quotation(NamedTuple):
    """A file and the numbers of the quoted lines, from 1, in one list for each definition."""

    path: str
    names: tuple[str, ...]
    pieces: list[list[int]]

    def code(self) -> str:
        """Return the quoted lines, each definition without its indentation."""
        lines, code = read(self.path), ""
        for before, piece in zip([[0], *self.pieces], self.pieces, strict=False):
            block = textwrap.dedent("\n".join(lines[i - 1] for i in piece)).strip("\n")
            adjacent = before[-1] + 1 == piece[0]
            code += ("\n" if adjacent else "\n\n") + block
        return code.strip("\n")


def quotation(specification: str) -> Quotation:
    """Return what a specification names. Raises QuotationError if that is not exactly one thing."""
    found = SPECIFICATION.fullmatch(specification)
    if found is None or not (ROOT / found["path"]).is_file():
        raise QuotationError(f"{specification!r}: give PATH NAME, see docs/quotations.py.")
    path, names = found["path"], tuple(found["names"].split())
    pieces = [list(lines_of(path, name)) for name in names] or [list(range(1, len(read(path)) + 1))]
    if found["first"]:
        pieces = [between(path, pieces[0], found["first"], found["last"])]
    if found["bare"]:
        pieces = [without_docstrings(path, piece) for piece in pieces]
    return Quotation(path, names, pieces)


def between(path: str, lines: list[int], first: str, last: str) -> list[int]:
    """Return the lines from that beginning with `first` to the next beginning with `last`."""
    text = read(path)
    starts = [i for i in lines if text[i - 1].strip().startswith(first)]
    if len(starts) != 1:
        raise QuotationError(f"{path}: {len(starts)} lines begin with {first!r}: quote another.")
    after = [i for i in lines if i >= starts[0] and text[i - 1].strip().startswith(last)]
    if not after:
        raise QuotationError(f"{path}: no line after {first!r} begins with {last!r}.")
    return [i for i in lines if starts[0] <= i <= after[0]]


def without_docstrings(path: str, lines: list[int]) -> list[int]:
    """Return the lines without docstrings and the blank lines that follow them."""
    text, kept = read(path), []
    if not path.endswith(".py"):
        while text[lines[0] - 1].strip().startswith("//"):
            lines = lines[1:]
        return lines
    docstrings = docstring_lines(path)
    for i in lines:
        follows = i - 1 in docstrings and not text[i - 1].strip()
        if i not in docstrings and not follows:
            kept.append(i)
    return kept


def lines_of(path: str, name: str) -> range:
    """Return the lines of a definition, with its decorators and the comments directly above it."""
    start, stop = (python_lines if path.endswith(".py") else c_lines)(path, name)
    text = read(path)
    while start > 1 and text[start - 2].strip().startswith(("# ", "//")):
        start -= 1
    return range(start, stop + 1)


def python_lines(path: str, name: str) -> tuple[int, int]:
    """Return the first and the last line of a name, which may be dotted."""
    node: ast.AST = parse(path)
    for part in name.split("."):
        inside = [child for child in getattr(node, "body", []) if part in defined(child)]
        if len(inside) != 1:
            raise QuotationError(f"{path}: {name} is defined {len(inside)} times: name another.")
        node = inside[0]
    decorators = getattr(node, "decorator_list", [])
    return min(n.lineno for n in (node, *decorators)), node.end_lineno


def defined(node: ast.AST) -> list[str]:
    """Return the names that a statement defines."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    found = (n for target in targets if target for n in ast.walk(target))
    return [n.id for n in found if isinstance(n, ast.Name)]


def c_lines(path: str, name: str) -> tuple[int, int]:
    """Return the first and the last line of a C++ function: NAME ( ... ) { ... }."""
    source = without_c_text(path)
    places = []
    for found in re.finditer(rf"\b{name}\s*\(", source):
        body = re.compile(r"\s*\{").match(source, closing(source, found.end(), "()"))
        if body:
            places.append((found.start(), closing(source, body.end(), "{}")))
    if len(places) != 1:
        raise QuotationError(f"{path}: {name} is defined {len(places)} times: name another.")
    lines = source.split("\n")
    start, stop = (source.count("\n", 0, i) + 1 for i in places[0])
    # The head of a declaration may take several lines: template <...>, __global__ ...
    while start > 1 and re.search(r"[^\s;}]\s*$", lines[start - 2]) and "#" not in lines[start - 2]:
        start -= 1
    return start, stop


def closing(source: str, i: int, pair: str) -> int:
    """Return the place after the bracket that closes the one before place i."""
    depth = 1
    while depth and i < len(source):
        depth += {pair[0]: 1, pair[1]: -1}.get(source[i], 0)
        i += 1
    return i


def without_c_text(path: str) -> str:
    """Return C++ code with blanks for its comments and strings; every line keeps its place."""
    return C_TEXT.sub(lambda text: re.sub(r"[^\n]", " ", text[0]), "\n".join(read(path)))


@cache
def code_lines(path: str) -> frozenset[int]:
    """Return the lines of code: not blank, no comment, no docstring, no import."""
    if not path.endswith(".py"):
        lines = enumerate(without_c_text(path).split("\n"), 1)
        return frozenset(i for i, line in lines if line.strip() and "#include" not in line)
    source = "\n".join(read(path)) + "\n"
    code = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in NOT_CODE:
            code.update(range(token.start[0], token.end[0] + 1))
    imports = (n for n in ast.walk(parse(path)) if isinstance(n, (ast.Import, ast.ImportFrom)))
    imported = {i for node in imports for i in range(node.lineno, node.end_lineno + 1)}
    return frozenset(code - imported - docstring_lines(path))


@cache
def docstring_lines(path: str) -> frozenset[int]:
    nodes = [n for n in ast.walk(parse(path)) if isinstance(n, Parsed) and ast.get_docstring(n)]
    return frozenset(i for n in nodes for i in range(n.body[0].lineno, n.body[0].end_lineno + 1))


@cache
def parse(path: str) -> ast.Module:
    return ast.parse("\n".join(read(path)))


@cache
def read(path: str) -> list[str]:
    return (ROOT / path).read_text().split("\n")
