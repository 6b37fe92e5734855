"""Keep what the documents quote and count equal to the code.

    python docs/tour.py             lists what is stale; exits 1 if anything is
    python docs/tour.py --write     refreshes it
    python docs/tour.py --coverage  prints which lines of the spine are quoted nowhere
    python docs/tour.py --minutes   prints how long each page of the tour takes to read

Markers in README.md and docs/ (quotations.py explains what can be quoted):

    <!-- quote: minddpm/diffusion/forward.py ForwardProcess.q_sample -->
    (the code, written by this script)
    <!-- /quote -->

    There are <!-- number: f"{len(d.betas):,}" -->1,000<!-- /number --> timesteps.

    <!-- setup
    d = GaussianDiffusion(schedules.linear(1000))
    -->

A number is the value of a Python expression; a setup block runs before the document's numbers are
computed.

A page of the tour should take 10 to 20 minutes: words, those of tables and formulas included, at
200 a minute, and non-empty lines of code at 40. Folded parts (<details>) and markers do not count.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from quotations import LANGUAGES, ROOT, QuotationError, code_lines, quotation

# The files that a training step and a sampling step pass through, and one of each rung of the two
# ladders of kernels.
SPINE = (
    "minddpm/diffusion/*.py",
    "minddpm/diffusion/sampling/*.py",
    "minddpm/autodiff/*.py",
    "kernels/reference/*.py",
    "minddpm/models/unet.py",
    "minddpm/models/blocks.py",
    "minddpm/training/ddpm.py",
    "kernels/cpu/ladder/conv*.py",
    "kernels/cuda/conv[1235]_*.cu",
    "kernels/cuda/product.cuh",  # rung 4, whose files only include it
    "kernels/cuda/tensor.cuh",  # rung 6
)
# What the tour does not quote, and why.
LEFT_OUT = {
    "minddpm/diffusion/scheduler_file.py": "the file format of diffusers, not diffusion",
    "minddpm/diffusion/scheduler_keys.py": "the file format of diffusers, not diffusion",
    "minddpm/diffusion/__init__.py": "only names",
    "minddpm/diffusion/sampling/__init__.py": "only names",
    "minddpm/autodiff/__init__.py": "only names",
    "kernels/reference/__init__.py": "only names",
}

QUOTE = re.compile(r"<!-- quote: (.+?) -->(.*?)<!-- /quote -->", re.S)
NUMBER = re.compile(r"<!-- number: (.+?) -->(.*?)<!-- /number -->", re.S)
SETUP = re.compile(r"<!-- setup\n(.*?)\n-->", re.S)

WORDS_A_MINUTE, LINES_A_MINUTE = 200, 40
SKIPPED = re.compile(r"<details>.*?</details>|<!--.*?-->", re.S)
CODE = re.compile(r"^```.*?$(.*?)^```", re.S | re.M)


def documents() -> list[Path]:
    """Return the files in which markers are kept."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def refreshed(text: str, folder: Path) -> tuple[str, list[str]]:
    """Return a document with everything refreshed, and what was stale: "LINE: what".

    folder: where the document is, for its links. Raises QuotationError for a marker that names
    nothing, is not closed, or cannot be computed.
    """
    stale: list[str] = []
    setups = tuple(SETUP.findall(text))
    namespace(setups)

    def replace(pattern: re.Pattern, word: str, new: Callable[[str], str], text: str) -> str:
        if text.count(f"<!-- {word}: ") != len(pattern.findall(text)):
            raise QuotationError(f"a {word} marker is not closed: add <!-- /{word} -->.")

        def one(found: re.Match) -> str:
            line = text.count("\n", 0, found.start()) + 1
            try:
                content = new(found[1])
            except Exception as error:
                raise QuotationError(f"line {line}: {found[1]}: {error}") from error
            if content != found[2]:
                stale.append(f"{line}: {found[1]}")
            return f"<!-- {word}: {found[1]} -->{content}<!-- /{word} -->"

        return pattern.sub(one, text)

    if re.search(r"^ *<!-- number:", text, re.M):
        # Markdown takes a line that begins with a comment for HTML.
        raise QuotationError("a number begins a line: put a word before it.")
    text = replace(NUMBER, "number", lambda expression: value(expression, setups), text)
    return replace(QUOTE, "quote", lambda what: f"\n{block(what, folder)}", text), stale


@cache
def namespace(setups: tuple[str, ...]) -> dict[str, Any]:
    """Return the names that setup blocks define; a translation repeats those of its original."""
    names: dict[str, Any] = {}
    for setup in setups:
        exec(setup, names)
    return names


@cache
def value(expression: str, setups: tuple[str, ...]) -> str:
    """Return the value of a number's expression after these setup blocks, as text."""
    return str(eval(expression, namespace(setups)))


def block(specification: str, folder: Path) -> str:
    """Return the caption and the code of a quotation in Markdown."""
    quoted = quotation(specification)
    path, language = ROOT / quoted.path, LANGUAGES[Path(quoted.path).suffix]
    caption = f"[`{quoted.path}`]({os.path.relpath(path, folder)})"
    if quoted.names:
        caption += ", " + ", ".join(f"`{name}`" for name in quoted.names)
    return f"{caption}:\n```{language}\n{quoted.code()}\n```\n"


def coverage() -> dict[str, tuple[set[int], set[int], set[int]]]:
    """Return for each file of the spine its lines of code, those quoted, and those left out."""
    quoted = [what for path in documents() for what, _ in QUOTE.findall(path.read_text())]
    result = {}
    for pattern in SPINE:
        for file in sorted(ROOT.glob(pattern)):
            path = file.relative_to(ROOT).as_posix()
            code = set(code_lines(path))
            result[path] = code, code & lines(quoted, path), code & lines(LEFT_OUT, path)
    return result


def lines(specifications: list[str] | dict[str, str], path: str) -> set[int]:
    """Return the lines of a file that any of these quotations names."""
    found = (quotation(what) for what in specifications if what.split()[0] == path)
    return {i for quoted in found for piece in quoted.pieces for i in piece}


def ranges(numbers: set[int], among: set[int]) -> str:
    """Return lines as text, "1-4, 8"; a range may hold lines that are not among the others."""
    order = sorted(among)
    starts = [
        b for a, b in zip([0, *order], order, strict=False) if a not in numbers and b in numbers
    ]
    stops = [
        a for a, b in zip(order, [*order[1:], 0], strict=True) if a in numbers and b not in numbers
    ]
    return ", ".join(f"{a}-{b}" if a < b else str(a) for a, b in zip(starts, stops, strict=True))


def print_coverage() -> None:
    totals = [0, 0, 0]
    print(f"{'lines':>6} {'quoted':>7} {'left out':>9}")
    for path, parts in coverage().items():
        code, quoted, left = parts
        totals = [total + len(part) for total, part in zip(totals, parts, strict=True)]
        print(f"{row([len(part) for part in parts])}  {path}")
        if rest := code - quoted - left:
            print(f"{'':26}not quoted: {ranges(rest, code)}")
    print(f"{row(totals)}  in all")


def row(counts: list[int]) -> str:
    code, quoted, left = counts
    return f"{code:6} {quoted / max(code, 1):7.0%} {left / max(code, 1):9.0%}"


def pages() -> list[Path]:
    """Return the pages of the tour's chapters, in order."""
    return sorted((ROOT / "docs" / "tour").glob("[0-9]*.md"))


def minutes(text: str) -> float:
    """Return how long it takes to read a page, see above."""
    text = SKIPPED.sub("", text)
    code = [line for block in CODE.findall(text) for line in block.split("\n") if line.strip()]
    words = re.findall(r"\S*\w\S*", CODE.sub("", text))
    return len(words) / WORDS_A_MINUTE + len(code) / LINES_A_MINUTE


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="refresh what is stale")
    parser.add_argument("--coverage", action="store_true", help="print what is quoted nowhere")
    parser.add_argument("--minutes", action="store_true", help="print how long each page takes")
    args = parser.parse_args()
    if args.coverage:
        print_coverage()
        return 0
    if args.minutes:
        for path in pages():
            print(f"{minutes(path.read_text()):4.1f}  {path.name}")
        return 0
    any_stale = False
    for path in documents():
        text = path.read_text()
        try:
            new, stale = refreshed(text, path.parent)
        except QuotationError as error:
            sys.exit(f"{path.relative_to(ROOT)}: {error}")
        for what in stale:
            print(f"{path.relative_to(ROOT)}:{what}" + (" (refreshed)" if args.write else ""))
        any_stale |= bool(stale)
        if args.write and new != text:
            path.write_text(new)
    return int(any_stale and not args.write)


if __name__ == "__main__":
    sys.exit(main())
