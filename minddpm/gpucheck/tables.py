"""The tables at the end, from the records of supervisor.results()."""

from collections.abc import Sequence
from typing import Any

from minddpm.commands import cli

Record = dict[str, Any]
TENSOR = "conv6_tensor"  # the file whose products are those of tensor cores


def tables(plan: Record, rows: Sequence[Record]) -> str:
    """Return all tables as Markdown, and a sentence about rows that did not run."""
    parts = [*map(_compiled, of_kind(rows, "compile")), _checks(of_kind(rows, "check"))]
    if plan["emulated"]:
        parts.append("Nothing was timed: the emulator is not a GPU.")
    else:
        parts.append(_timings(of_kind(rows, "timing")))
        parts += [_step(row, ceilings(rows)) for row in of_kind(rows, "step")]
        parts += map(_resources, of_kind(rows, "resources"))
        parts += map(digits, of_kind(rows, "digits"))
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


def by_task(timings: Sequence[Record]) -> dict[str, list[Record]]:
    """Return the timings of each task, in order of their first ones."""
    found: dict[str, list[Record]] = {}
    for row in timings:
        # A lost one has only its name, "task, contestant": the task may have commas itself.
        own = [what for what in found if row["name"].startswith(f"{what}, ")]
        found.setdefault(row.get("what") or "".join(own[:1]) or "lost", []).append(row)
    return found


def verdict(ok: bool) -> str:
    return "ok" if ok else "FAILED"


def number(x: float | None, digits: int = 0) -> str:
    """Return x for a table; an empty cell for None and 0."""
    return f"{x:.{digits}f}" if x else ""


def ceilings(rows: Sequence[Record]) -> dict[str, float]:
    """Return the measured GFLOP/s and GB/s of the loops and of the copy, by their names."""
    return {
        row["who"]: row["gflops"] or row["gigabytes"]
        for row in of_kind(rows, "timing")
        if row.get("what") == "ceiling" and row["milliseconds"]
    }


def share(kernel: Record, measured: dict[str, float]) -> tuple[float, str] | None:
    """Return how much of the time a kernel would need at the card's measured ceilings, in %.

    That is the larger of its operations at the ceiling of its arithmetic, and of its bytes at the
    ceiling of a copy, with the name of that ceiling; None if neither is known.
    """
    nanoseconds = 1e3 * kernel["microseconds"]
    arithmetic = "tensor cores, half" if kernel["name"].startswith(TENSOR) else "FFMA"
    found = [
        (100 * amount / measured[name] / nanoseconds, name)
        for amount, name in ((kernel["flops"], arithmetic), (kernel["bytes"], "copy in memory"))
        if amount and name in measured and nanoseconds
    ]
    return max(found, default=None)


def _compiled(row: Record) -> str:
    if row["kind"] == "lost":
        return f"compilation: FAILED {row['problem']}"
    lines = [f"{row['modules']} modules of kernels compiled in {row['seconds']:.0f} s."]
    return "\n".join([*lines, *(f"FAILED {problem}" for problem in row["problems"])])


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
    for row in (row for some in by_task(rows).values() for row in some):
        if row["kind"] == "lost":
            lines.append([row["name"], "", f"FAILED {row['problem']}", *[""] * 6])
            continue
        time = number(row["milliseconds"], 4)
        time = time or row["missing"] or f"FAILED {row['problem']}"
        lines.append(
            [
                row["what"], row["who"], time, number(row["queued"], 4), number(row["host"], 4),
                number(row["images_per_second"]), number((row["memory"] or 0) / 2**20),
                number(row["gflops"]), number(row["gigabytes"]),
            ]
        )  # fmt: skip
    head = ["device events, median", "who", "ms", "ms, queued", "ms of the host", "images/s", "MiB"]
    return cli.markdown([*head, "GFLOP/s, effective", "GB/s"], lines)


def _step(row: Record, measured: dict[str, float]) -> str:
    """Return the table of one step by kernel, the longest first, and what CuPy itself adds."""
    if row["kind"] == "lost" or row["problem"]:
        return f"{row['name']}: FAILED {row['problem']}"
    whole = 1e3 * row["milliseconds"]
    ours = sum(kernel["microseconds"] for kernel in row["kernels"])
    rest = {"name": "CuPy's own kernels, copies, and gaps", "launches": "", "flops": 0, "bytes": 0,
            "microseconds": whole - ours}  # fmt: skip
    lines = [
        [each["name"], f"{each['launches']}", f"{each['microseconds']:.1f}",
         f"{100 * each['microseconds'] / whole:.1f}", of_ceiling(each, measured)]
        for each in (*row["kernels"], rest)
    ]  # fmt: skip
    launches, host = row["launches"], row["host"]
    title = f"{row['what']} step, {row['images']} images, {row['precision']}, by kernel"
    head = [title, "launches", "us", "% of the step", "% of a measured ceiling"]
    return cli.markdown(head, lines) + (
        f"\n\n{launches} launches of raw kernels; Python takes {1e3 * host / launches:.1f} us for "
        f"each, {host:.2f} ms for the step."
    )


def of_ceiling(kernel: Record, measured: dict[str, float]) -> str:
    """Return the kernel's share as text; it is at most the truth, as bytes are counted once."""
    found = share(kernel, measured)
    return f"{found[0]:.0f} of {found[1]}" if found else ""


def _resources(row: Record) -> str:
    if row["kind"] == "lost":
        return f"{row['name']}: FAILED {row['problem']}"
    lines = []
    for each in row["kernels"]:
        cells = ("registers", "stack", "shared")
        found = ["not available" if each[name] is None else f"{each[name]}" for name in cells]
        expected = "/".join(map(str, each["expected"])) if each["expected"] else ""
        lines.append([f"{each['name']} {each['options']}".strip(), *found, expected])
    head = ["kernel", "registers", "stack, bytes", "shared, bytes"]
    return cli.markdown([*head, "registers/stack of the table in kernels/cuda/README.md"], lines)


def digits(row: Record) -> str:
    """Return the result of the training in one or two sentences."""
    if row["kind"] == "lost" or row["problem"]:
        return f"{row['name']}: FAILED {row['problem']}"
    if row["missing"]:
        return f"{row['name']}: did not run ({row['missing']})"
    text = f"Trained for {row['steps']} steps in {row['training_seconds']:.0f} s"
    text += f" ({row['data']}), loss {row['loss']:.4f}."
    if row["fid"] is not None:
        text += (
            f" FID of the samples by our own judge {row['fid']:.2f}, of as many real digits "
            f"{row['fid_of_real']:.2f}."
        )
    text += (
        f" The judge is 95% sure of {100 * row['sure']:.0f}% of the samples, of "
        f"{100 * row['sure_of_real']:.0f}% of real digits. "
    )
    return text + (row["picture"] or f"No picture: {row['note']}")


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
