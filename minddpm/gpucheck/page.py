"""Draw all results as one HTML page: bars for times and rates, what failed first."""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from minddpm.gpucheck.tables import (
    CEILINGS_NOTE,
    TIMES,
    Record,
    by_task,
    by_the_table,
    ceilings,
    compiled,
    digits,
    failures,
    notable,
    number,
    of_kind,
    sanitizer,
    share,
    states_table,
    times,
    used_times,
    variants,
    why_not,
)

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #262626; background: #fff; }
h1, h2, h3 { line-height: 1.2; } h3 { margin: 1.2rem 0 .3rem; font-size: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: left; }
th { font-weight: 600; vertical-align: bottom; text-align: right; }
td:first-child { width: 19rem; overflow-wrap: anywhere; }
td.number { text-align: right; white-space: nowrap; }
td[data-name="which"] { white-space: nowrap; }
td.bar { width: 25%; } td.bar div { background: #4878a8; height: .9rem; min-width: 1px; }
td.bar div.theirs { background: #b0b8c0; }
td.bar div.longer { mask-image: linear-gradient(to right, #000 60%, transparent); }
.failed { color: #b00020; font-weight: 600; }
img { width: 100%; max-width: 32rem; image-rendering: pixelated; }
@media (max-width: 40rem) {
  td:first-child { width: auto; }
  table, tbody { display: block; }
  tr { display: flex; flex-wrap: wrap; border-bottom: 1px solid #ddd; }
  th, td { border: 0; padding: .1rem .6rem .1rem 0; } tr:has(th) { display: none; }
  td:first-child, td.bar { width: 100%; }
  td[data-name]::before { content: attr(data-name) " "; color: #666; }
}
"""
THEIRS = "PyTorch", "cupy-reference"  # with a paler bar
CUT = 8  # times the shortest bar


def page(plan: Record, rows: Sequence[Record]) -> str:
    """Return the page for the records of supervisor.results()."""
    facts, failed = plan["machine"], failures(rows)
    verdict = (
        f'<p class="failed">Rows that failed: {failed}.</p>' if failed else "<p>No row failed.</p>"
    )
    parts = [f"<h1>minddpm on {html.escape(facts['GPU'])}</h1>", verdict]
    parts.append(_table(f"<td>{name}</td><td>{html.escape(facts[name])}</td>" for name in facts))
    if plan["emulated"]:
        parts.append("<p>Nothing was timed: the emulator is not a GPU.</p>")
    else:
        parts.append("<p>Below, a bar that fades at its end is longer than there is room for.</p>")
    parts += map(_digits, of_kind(rows, "digits"))
    measured = ceilings(rows)
    for what, some in by_task(of_kind(rows, "timing")).items():
        parts.append(f"<h2>{html.escape(what)}</h2>{_timings(some, measured)}")
    parts += [_step(row, measured) for row in of_kind(rows, "step") if row.get("kernels")]
    parts += [f"<p>{CEILINGS_NOTE}</p>"] * bool(measured)
    parts += map(_resources, of_kind(rows, "resources"))
    parts += [f"<p>{html.escape(compiled(row))}</p>" for row in of_kind(rows, "compile")]
    parts += ["<h2>Compared with the reference</h2>", _checks(of_kind(rows, "check"))]
    parts.append(f"<p>{html.escape(sanitizer(of_kind(rows, 'sanitizer')))}</p>")
    parts += [_states(of_kind(rows, "state"))]
    missing = [row["name"] for row in rows if row["kind"] == "not run"]
    if missing:
        parts.append(f"<h2>No time was left for</h2><p>{html.escape('; '.join(missing))}</p>")
    body = "\n".join(parts)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>minddpm.gpucheck</title>
<style>{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _digits(row: Record) -> str:
    """Return the result of the training, with its samples in the page itself."""
    picture = Path(row.get("picture") or "none")
    image = ""
    if picture.is_file():
        data = base64.b64encode(picture.read_bytes()).decode()
        image = f'<p><img alt="samples" src="data:image/png;base64,{data}"></p>'
    return f"<h2>A training</h2><p>{html.escape(digits(row))}</p>{image}"


def _timings(rows: list[Record], measured: dict[str, float]) -> str:
    """Return a bar of each contestant's time on the device, and its numbers.

    Bars much longer than the shortest one are cut off, so that the others can be compared.
    """
    every = [row["milliseconds"] for row in rows if row.get("milliseconds")]
    longest = max((time for time in every if time <= CUT * min(every)), default=0)
    used, lines = used_times(rows, measured), []
    for row in rows:
        who = html.escape(row.get("who", row["name"]))
        if found := times(row, measured):
            named = [(TIMES[i], found[i]) for i in used]
            bar = _bar(row["milliseconds"], longest, who)
            lines.append(_line(who, bar, named))
        else:
            why = html.escape(why_not(row))
            failed = ' class="failed"' * (not row.get("missing"))
            lines.append(f'<td>{who}</td><td colspan="{1 + len(used)}"{failed}>{why}</td>')
    return _table(lines, ["", "", *(TIMES[i] for i in used)])


def _step(row: Record, measured: dict[str, float]) -> str:
    longest = max(kernel["microseconds"] for kernel in row["kernels"])
    whole, lines = 1e3 * row["milliseconds"], []
    names = "us", "% of the step", "launches", "% of a measured ceiling", "which"
    for each in row["kernels"]:
        time, (part, ceiling) = each["microseconds"], share(each, measured) or (None, "")
        numbers = [
            f"{time:.1f}", f"{100 * time / whole:.1f}", f"{each['launches']}", number(part), ceiling
        ]  # fmt: skip
        name, named = html.escape(each["name"]), zip(names, numbers, strict=True)
        lines.append(_line(name, _bar(time, longest), named))
    what = f"{row['what']} step of {row['images']} images in {row['precision']}"
    launches = f"{row['launches']} launches, {1e3 * row['host'] / row['launches']:.1f} us of the "
    text = f"<p>{row['milliseconds']:.3f} ms; {launches}host for each.</p>"
    return f"<h2>A {what}, kernel by kernel</h2>{text}{_table(lines, ['', '', *names])}"


def _resources(row: Record) -> str:
    names = "registers", "stack, bytes", "shared, bytes", "registers/stack by the table"
    lines = []
    shown, rest = notable(row)
    for each in shown:
        keys = ("registers", "stack", "shared")
        numbers = ["not available" if each[key] is None else f"{each[key]}" for key in keys]
        numbers.append(by_the_table(each))
        name = html.escape(f"{each['name']} {each['options']}".strip())
        lines.append(_line(name, None, zip(names, numbers, strict=True)))
    table = _table(lines, ["", *names])
    return f"<h2>Compiled kernels on this GPU</h2>{table}<p>{variants(rest)}</p>"


def _states(rows: list[Record]) -> str:
    if not rows:
        return ""
    (title, *names), found = states_table(rows)
    lines = [
        _line(html.escape(when), None, zip(names, map(html.escape, texts), strict=True))
        for when, *texts in found
    ]
    return f"<h2>{title[0].upper()}{title[1:]}</h2>{_table(lines, ['', *names])}"


def _checks(rows: list[Record]) -> str:
    """Return the checks, those that failed first."""
    lines = []
    for row in sorted(rows, key=lambda row: row.get("ok", False)):
        if row.get("ok"):
            verdict = "ok"
        else:
            why = row.get("note") or row.get("problem", "")
            verdict = f'<span class="failed">FAILED {html.escape(why)}</span>'
        numbers = ["", ""]
        if "error" in row:
            numbers = [f"{float(row['error']):.1e}", f"{row['tolerance']:.0e}"]
        named = zip(("largest error", "allowed", ""), (*numbers, verdict), strict=True)
        lines.append(_line(html.escape(row["name"]), None, named))
    return _table(lines, ["", "largest error", "allowed", ""])


def _bar(value: float, longest: float, who: str = "") -> str:
    """Return a bar of this part of the longest one; one that is longer fades at its end."""
    kinds = ["theirs"] * who.startswith(THEIRS) + ["longer"] * (value > longest)
    kind = f' class="{" ".join(kinds)}"' * bool(kinds)
    return f'<div{kind} style="width: {min(100, 100 * value / longest):.1f}%"></div>'


def _line(name: str, bar: str | None, named: Iterable[tuple[str, str]]) -> str:
    """Return the cells of a line: its name, a bar, and values with the names of their columns.

    All texts are HTML already. On a narrow screen each value shows the name of its column.
    """
    cells = [f"<td>{name}</td>"] + [f'<td class="bar">{bar}</td>'] * (bar is not None)
    for column, text in named:
        kind = ' class="number"' * text[:1].isdigit()
        label = f' data-name="{column}"' * bool(text)
        cells.append(f"<td{kind}{label}>{text}</td>")
    return "".join(cells)


def _table(lines: Iterable[str], head: Sequence[str] = ()) -> str:
    titles = "".join(f"<th>{title}</th>" for title in head)
    rows = [titles] * bool(titles) + list(lines)
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
