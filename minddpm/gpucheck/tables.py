"""The tables at the end, from the records of supervisor.results()."""

from collections.abc import Sequence
from typing import Any

from minddpm.commands import cli

Record = dict[str, Any]


def tables(plan: Record, rows: Sequence[Record]) -> str:
    """Return all tables as Markdown, and a sentence about rows that did not run."""
    parts = [_checks(of_kind(rows, "check"))]
    if plan["emulated"]:
        parts.append("Nothing was timed: the emulator is not a GPU.")
    else:
        parts += [_timings(of_kind(rows, "timing")), *map(_step, of_kind(rows, "step"))]
        parts.append(_sanitizer(of_kind(rows, "sanitizer")))
    states = of_kind(rows, "state")
    for name in (key for key in (states[-1] if states else {}) if key not in ("kind", "when")):
        values = [f"{state['when']} {state[name]}" for state in states if name in state]
        parts.append(f"{name}: {'; '.join(values)}")
    missing = [row["name"] for row in rows if row["kind"] == "not run"]
    if missing:
        parts.append(
            f"No time was left for {len(missing)} of {len(plan['rows'])} rows, from {missing[0]!r} "
            "on: give more --seconds."
        )
    return "\n\n".join(parts)


def of_kind(rows: Sequence[Record], kind: str) -> list[Record]:
    """Return the rows of one kind that ran, those whose process was lost included."""
    return [
        row for row in rows if kind in (row["kind"], row.get("of")) and row["kind"] != "not run"
    ]


def failures(rows: Sequence[Record]) -> int:
    """Return how many rows failed. A sanitizer that could not run has not."""
    return sum(
        row.get("ok") is False and row.get("of") != "sanitizer"
        for row in rows
        if row["kind"] != "not run"
    )


def verdict(ok: bool) -> str:
    return "ok" if ok else "FAILED"


def _checks(rows: list[Record]) -> str:
    lines = []
    for row in rows:
        if row["kind"] == "lost":
            lines.append([row["name"], "", "", f"FAILED {row['problem']}"])
        else:
            end = f"{verdict(row['ok'])} {row['note']}".strip()
            lines.append(
                [row["name"], f"{float(row['error']):.1e}", f"{row['tolerance']:.0e}", end]
            )
    return cli.markdown(["compared with the reference", "largest error", "allowed", ""], lines)


def _timings(rows: list[Record]) -> str:
    lines = []
    for row in rows:
        if row["kind"] == "lost":
            lines.append([row["name"], "", f"FAILED {row['problem']}", "", "", ""])
            continue
        time, host, gflops = row["milliseconds"], row["host"], row["gflops"]
        gigabytes = row["gigabytes"]
        lines.append(
            [
                row["what"], row["who"],
                f"FAILED {row['problem']}" if time is None else f"{time:.4f}",
                "" if host is None else f"{host:.4f}",
                f"{gflops:.0f}" if gflops else "",
                f"{gigabytes:.0f}" if gigabytes else "",
            ]
        )  # fmt: skip
    head = ["device events, median", "who", "ms", "host, ms", "GFLOP/s, effective", "GB/s"]
    return cli.markdown(head, lines)


def _step(row: Record) -> str:
    """Return the table of one step by kernel, the longest first, and what CuPy itself adds."""
    if row["kind"] == "lost" or row["problem"]:
        return f"training step by kernel: FAILED {row['problem']}"
    whole = 1e3 * row["milliseconds"]
    ours = sum(kernel["microseconds"] for kernel in row["kernels"])
    rest = {"name": "CuPy's own kernels, copies, and gaps", "launches": "",
            "microseconds": whole - ours}  # fmt: skip
    lines = [
        [each["name"], f"{each['launches']}", f"{each['microseconds']:.1f}",
         f"{100 * each['microseconds'] / whole:.1f}"]
        for each in (*row["kernels"], rest)
    ]  # fmt: skip
    launches, host = row["launches"], row["host"]
    head = [f"training step, {row['images']} images, by kernel", "launches", "us", "%"]
    return cli.markdown(head, lines) + (
        f"\n\n{launches} launches of raw kernels; Python takes {1e3 * host / launches:.1f} us for "
        f"each, {host:.2f} ms for the step."
    )


def _sanitizer(rows: list[Record]) -> str:
    lines = []
    for row in rows:
        ok, tool = row.get("ok"), row.get("tool", row["name"])
        if row["kind"] == "lost" or ok is None:
            why = row.get("summary") or row["problem"]
            lines.append(f"compute-sanitizer, {tool}: did not run ({why})")
        else:
            lines.append(f"compute-sanitizer, {tool}: {verdict(ok)} ({row['summary']})")
    return "\n".join(lines) or "compute-sanitizer did not run."
