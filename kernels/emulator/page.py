"""The cost of a kernel, line by line, as one HTML page: its source, with counts beside each line.

A line that accesses memory opens, and shows which addresses one warp asks for (drawing.py). The
page needs nothing else: no script, no other file.
"""

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from minddpm.errors import InputError
from minddpm.kernels.emulator import drawing
from minddpm.kernels.emulator.build import kernels, parameter_names
from minddpm.kernels.emulator.launch import Library
from minddpm.kernels.emulator.profile import Line, Request, summary

Operations = Mapping[tuple[str, str], int]  # kernel, "file:line" -> floating-point operations

COLUMNS = "requests", "transactions", "ideal", "per request", "worst", "lanes"
LEGEND = """
<p>A <b>request</b> is one execution of an access by a warp. Its <b>transactions</b> are the sectors
of 32 bytes that it touches in global memory, or its passes over the 32 banks of shared memory;
<b>ideal</b> is the fewest that could hold its bytes. <b>Worst</b> is the most sectors of one
request, or the most threads that one bank makes wait for each other. <b>Lanes</b> is how many of a
warp's 32 threads take part, on average: fewer if threads diverge. Branches without an access to
memory, and caches, are not counted.</p>
<p>A line's colour is its share of all sectors, of all passes or of all operations, whichever is
largest. <b>Choose a line with a triangle</b> to see the addresses of one warp, in the request that
costs most. A number in a cell is that of its lane; 3x stands for three lanes that are not
neighbours. Hatched: fetched for nothing. In shared memory a column is a bank, a row is a pass.</p>
"""
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 110rem; margin: 1rem auto;
  padding: 0 1rem; color: #222; background: #fff; }
h1, h2 { line-height: 1.2; } h2 { margin: 1.5rem 0 .3rem; font-size: 1.1rem; }
p { max-width: 60rem; }
.row, summary { display: grid; grid-template-columns: 1rem 3rem minmax(0, 1fr) 39rem 6rem;
  background: rgb(255 120 30 / calc(.65 * var(--heat, 0))); align-items: start; }
summary { cursor: pointer; list-style: none; } summary::-webkit-details-marker { display: none; }
summary:hover, summary:focus-visible { outline: 2px solid #4878a8; outline-offset: -2px; }
summary::before { content: "\\25b8"; color: #4878a8; }
[open] > summary::before { content: "\\25be"; }
.row::before { content: ""; } code:last-child { grid-column: 3 / -1; }
.number, .count { text-align: right; font-variant-numeric: tabular-nums; padding-right: .7rem; }
.number { color: #777; font-size: .85rem; }
code { font: .85rem/1.5rem ui-monospace, monospace; white-space: pre-wrap; padding-right: 1rem;
  overflow-wrap: anywhere; }
.access { display: grid; grid-template-columns: 9rem repeat(6, 5rem); }
.accesses, .operations, .head { font-size: .85rem; }
.access.waste .transactions, .access.waste .worst { color: #b00020; font-weight: 700; }
.head { position: sticky; top: 0; background: #fff; border-bottom: 1px solid #888;
  font-weight: 600; }
.opened { padding: .2rem 0 .5rem 4rem; border-left: 3px solid #4878a8; }
.access .kernel { grid-column: 1 / -1; color: #666; }
@media (max-width: 75rem) {
  .head { display: none; }
  .row, summary { grid-template-columns: 1rem 2.2rem minmax(0, 1fr); }
  .accesses, .operations { grid-column: 3; text-align: left; }
  .access { display: flex; flex-wrap: wrap; gap: 0 .7rem; } .count { padding: 0; }
  .access > span:first-child { font-weight: 600; } .number { padding-right: .5rem; }
  .count::before { content: attr(data-name) " "; color: #666; font-weight: 400; }
  .opened { padding-left: .4rem; }
}
"""


def library_page(library: Library, launches: Sequence[str]) -> str:
    """Return the page of a library's launches since its last profile()."""
    try:
        operations = library.operations()
    except InputError:  # not on this machine
        operations = None
    path = Path(library.path)
    return page(path, library.source, library.profile(), operations, launches)


def page(
    file: Path,
    source: str,
    lines: Sequence[Line],
    operations: Operations | None,
    launches: Sequence[str] = (),
) -> str:
    """Return the page of the kernels of this source; its .cuh files are in the same folder.

    operations: None if they cannot be counted on this machine. launches: what was run, for the top
    of the page.
    """
    here = kernels(source, str(file), file.parent)
    lines = [line for line in lines if line.kernel in here]
    counted = {key: n for key, n in (operations or {}).items() if key[0] in here}
    parts = [f"<h1>{html.escape(file.name)}</h1>"]
    parts += [f"<p><code>{html.escape(launch)}</code></p>" for launch in launches]
    parts += [f"<p>{html.escape(sentence)}</p>" for sentence in summary(lines, counted)]
    if operations is None:
        parts.append("<p>Operations are not counted on this machine.</p>")
    parts.append(LEGEND)
    rows = _Rows(lines, counted, {kernel: parameter_names(source, kernel) for kernel in here})
    places = [line.place for line in lines] + [place for _, place in counted]
    for name in dict.fromkeys([file.name, *(place.partition(":")[0] for place in places)]):
        text = source if name == file.name else _text(file.parent / name)
        if text:
            parts += [f"<h2>{html.escape(name)}</h2>", _heading()]
            parts += [rows.row(f"{name}:{n}", code) for n, code in enumerate(text.splitlines(), 1)]
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1" />
<link rel="icon" href="data:," />
<title>Profile of {html.escape(file.name)}</title>
<style>{STYLE}{drawing.STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _text(file: Path) -> str:
    return file.read_text() if file.is_file() else ""


def _heading() -> str:
    names = "".join(f'<span class="count">{name}</span>' for name in COLUMNS)
    return (
        '<div class="row head"><span class="number">line</span><span></span>'
        f'<span class="access"><span>access</span>{names}</span>'
        '<span class="count">operations</span></div>'
    )


class _Rows:
    """The rows of all files: a line of source, its accesses and its operations."""

    def __init__(
        self, lines: Sequence[Line], operations: Operations, parameters: Mapping[str, list[str]]
    ):
        self.lines, self.parameters = lines, parameters
        self.operations: Counter[str] = Counter()  # by place
        for (_, place), count in operations.items():
            self.operations[place] += count
        self.heat = _heat(lines, self.operations)
        places = (line.place for line in lines)
        self.opened = max(places, key=lambda place: self.heat[place], default=None)

    def row(self, place: str, code: str) -> str:
        """Return the HTML of a line of source."""
        here = [line for line in self.lines if line.place == place]
        several = len({line.kernel for line in here}) > 1
        accesses = "".join(_access(line, several) for line in here)
        count, heat = self.operations[place], self.heat.get(place, 0)
        style = f' style="--heat: {heat:.2f}"' * (heat > 0)
        operations = f'<span class="count operations" data-name="operations">{count:,}</span>'
        cells = (
            f'<span class="number">{place.partition(":")[2]}</span><code>{html.escape(code)}</code>'
            + f'<span class="accesses">{accesses}</span>' * bool(here or count)
            + operations * (count > 0)
        )
        if not here:
            return f'<div class="row" id="{place}"{style}>{cells}</div>'
        drawings = "".join(
            drawing.drawing(request, line.space, line.kind, self._array(line, request))
            for line in here
            for request in line.costliest
        )
        opened = ' open=""' * (place == self.opened)
        return (
            f'<details id="{place}"{opened}><summary{style}>{cells}</summary>'
            f'<div class="opened">{drawings}</div></details>'
        )

    def _array(self, line: Line, request: Request) -> str:
        """Return the array's name in the source, if it is known."""
        found = re.fullmatch(r"argument (\d+)", request.array)
        names = self.parameters.get(line.kernel, [])
        if found and int(found[1]) < len(names):
            return html.escape(names[int(found[1])])
        return html.escape(request.array)


def _access(line: Line, several: bool) -> str:
    """Return the counts of a line; several: with the kernel's name."""
    worst = f"{line.worst}-way" if line.space == "shared" else f"{line.worst}"
    texts = (
        f"{line.requests:,}", f"{line.transactions:,}", f"{line.ideal:,}",
        f"{line.transactions / line.requests:.3g}", worst, f"{line.lanes / line.requests:.3g}",
    )  # fmt: skip
    cells = "".join(
        f'<span class="count {name.replace(" ", "-")}" data-name="{name}">{text}</span>'
        for name, text in zip(COLUMNS, texts, strict=True)
    )
    kernel = f'<span class="kernel">{line.kernel}</span>' * several
    waste = " waste" * (line.transactions > line.ideal)
    what = f"<span>{line.space} {line.kind}</span>"
    return f'<span class="access{waste}">{what}{cells}{kernel}</span>'


def _heat(lines: Sequence[Line], operations: Mapping[str, int]) -> dict[str, float]:
    """Return the cost of each place, of at most 1: that of the hottest one.

    It is a place's share of all sectors, of all passes or of all operations, whichever is largest.
    """
    costs = {what: Counter[str]() for what in ("global", "shared")}
    for line in lines:
        costs[line.space][line.place] += line.transactions
    heat: dict[str, float] = {}
    for cost in (*costs.values(), operations):
        for place, n in cost.items():
            heat[place] = max(heat.get(place, 0), n / sum(cost.values()))
    hottest = max(heat.values(), default=1)
    return {place: share / hottest for place, share in heat.items()}
