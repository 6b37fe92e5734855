"""Draw all results as one HTML page: bars for times and rates, what failed first."""

import html
from collections.abc import Iterable, Sequence
from itertools import groupby

from minddpm.gpucheck.tables import Record, failures, of_kind

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
  color: #262626; background: #fff; }
h1, h2, h3 { line-height: 1.2; } h3 { margin: 1.2rem 0 .3rem; font-size: 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid #ddd; padding: .2rem .6rem; text-align: left; }
td:first-child { width: 15rem; }
td.number { text-align: right; white-space: nowrap; }
td.bar { width: 45%; } td.bar div { background: #4878a8; height: .9rem; min-width: 1px; }
.failed { color: #b00020; font-weight: 600; }
"""


def page(plan: Record, rows: Sequence[Record]) -> str:
    """Return the page for the records of supervisor.results()."""
    facts, failed = plan["machine"], failures(rows)
    verdict = f'<p class="failed">{failed} rows failed.</p>' if failed else "<p>No row failed.</p>"
    parts = [f"<h1>minddpm on {html.escape(facts['GPU'])}</h1>", verdict]
    parts.append(_table(f"<td>{name}</td><td>{html.escape(facts[name])}</td>" for name in facts))
    if plan["emulated"]:
        parts.append("<p>Nothing was timed: the emulator is not a GPU.</p>")
    timings = of_kind(rows, "timing")
    for what, group in groupby(timings, key=lambda row: row.get("what", "lost")):
        parts.append(f"<h2>{html.escape(what)}</h2>{_timings(list(group), _ceiling(timings))}")
    parts += [_step(row) for row in of_kind(rows, "step") if row.get("kernels")]
    parts += ["<h2>Compared with the reference</h2>", _checks(of_kind(rows, "check"))]
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


def _ceiling(timings: Sequence[Record]) -> float | None:
    """Return the measured GFLOP/s of the loop of FFMA, if it ran."""
    found = (row.get("gflops") for row in timings if row.get("who") == "FFMA")
    return next((gflops for gflops in found if gflops), None)


def _timings(rows: list[Record], ceiling: float | None) -> str:
    """Return a bar of each contestant's time on the device."""
    longest = max((row.get("milliseconds") or 0 for row in rows), default=0)
    lines = []
    for row in rows:
        who, time = html.escape(row.get("who", row.get("name", ""))), row.get("milliseconds")
        if time is None:
            lines.append(
                f'<td>{who}</td><td colspan="3" class="failed">{html.escape(row["problem"])}'
            )
            continue
        rates = []
        if row["gflops"]:
            share = f", {100 * row['gflops'] / ceiling:.0f}% of FFMA's" if ceiling else ""
            rates.append(f"{row['gflops']:.0f} GFLOP/s{share}")
        if row["gigabytes"]:
            rates.append(f"{row['gigabytes']:.0f} GB/s")
        if row["host"]:
            rates.append(f"host {row['host']:.3f} ms")
        lines.append(_cells(who, _bar(time, longest), f"{time:.4f} ms", ", ".join(rates)))
    return _table(lines)


def _step(row: Record) -> str:
    longest = max(kernel["microseconds"] for kernel in row["kernels"])
    whole = 1e3 * row["milliseconds"]
    lines = [
        _cells(
            html.escape(each["name"]), _bar(each["microseconds"], longest),
            f"{each['microseconds']:.1f} us", f"{100 * each['microseconds'] / whole:.1f}%",
            f"{each['launches']} launches",
        )
        for each in row["kernels"]
    ]  # fmt: skip
    title = f"A training step of {row['images']} images, kernel by kernel"
    return f"<h2>{title}: {row['milliseconds']:.3f} ms</h2>{_table(lines)}"


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
            numbers = [f"{float(row['error']):.1e}", f"at most {row['tolerance']:.0e}"]
        lines.append(_cells(html.escape(row["name"]), *numbers, verdict))
    return _table(lines)


def _bar(value: float, longest: float) -> str:
    return f'<div style="width: {100 * value / longest if longest else 0:.1f}%"></div>'


def _cells(*cells: str) -> str:
    """Return a line of a table. The cells are HTML already."""
    tags = ("bar" if c.startswith("<div") else "number" if c[:1].isdigit() else "" for c in cells)
    return "".join(
        f'<td class="{tag}">{c}</td>' if tag else f"<td>{c}</td>"
        for tag, c in zip(tags, cells, strict=True)
    )


def _table(lines: Iterable[str]) -> str:
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
