"""The tables at the end, from the records of supervisor.results()."""

from collections.abc import Sequence
from typing import Any

from minddpm.commands import cli

Record = dict[str, Any]
TENSOR = "conv6_"  # begins the names of the files whose products are those of tensor cores
FFMA, TENSOR_CORES, COPY = "FFMA", "tensor cores, half", "copy in memory"  # measured ceilings
TIMES = ("ms", "ms, queued", "ms of the host", "images/s", "MiB", "GFLOP/s, effective",
         "% of its ceiling", "GB/s")  # fmt: skip
CEILINGS_NOTE = (
    f"Ceilings: {FFMA} and {TENSOR_CORES} are loops of nothing but arithmetic, {COPY} copies far "
    "more than the L2 cache holds. A kernel whose arrays stay in that cache may exceed the copy, "
    "and one that reads an array several times moves more than is counted."
)


def tables(plan: Record, rows: Sequence[Record]) -> str:
    """Return all tables as Markdown, and a sentence about rows that did not run."""
    parts = [*map(compiled, of_kind(rows, "compile")), _checks(of_kind(rows, "check"))]
    if plan["emulated"]:
        parts.append("Nothing was timed: the emulator is not a GPU.")
    else:
        measured = ceilings(rows)
        for what, some in by_task(of_kind(rows, "timing")).items():
            parts.append(cli.markdown(*timings_table(what, some, measured)))
        parts += [_step(row, measured) for row in of_kind(rows, "step")]
        parts += [CEILINGS_NOTE] * bool(measured)
        parts += map(_resources, of_kind(rows, "resources"))
        parts += map(digits, of_kind(rows, "digits"))
        parts.append(sanitizer(of_kind(rows, "sanitizer")))
    if states := of_kind(rows, "state"):
        parts.append(cli.markdown(*states_table(states)))
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


def number(x: float | None) -> str:
    """Return x as an integer for a table; an empty cell for None and 0."""
    return f"{x:.0f}" if x else ""


def milliseconds(x: float | None) -> str:
    """Return x with four digits, however short the time is; an empty cell for None."""
    return f"{x:#.4g}".removesuffix(".") if x else ""


def ceilings(rows: Sequence[Record]) -> dict[str, float]:
    """Return the measured GFLOP/s and GB/s of the loops and of the copy, by their names."""
    return {
        row["who"]: row["gflops"] or row["gigabytes"]
        for row in of_kind(rows, "timing")
        if row.get("what") == "ceiling" and row["milliseconds"]
    }


def times(row: Record, measured: dict[str, float]) -> list[str]:
    """Return the texts of TIMES, or nothing without a time.

    Products in half and bfloat16 are compared with the loop of tensor cores, those in float32 with
    that of FFMA; none with TF32, whose ceiling is not measured.
    """
    if not row.get("milliseconds"):
        return []
    who, gflops = row["who"], row["gflops"]
    ceiling = measured.get(TENSOR_CORES if "half" in who or "bfloat16" in who else FFMA)
    part = 100 * gflops / ceiling if gflops and ceiling and "TF32" not in who else None
    return [
        *(milliseconds(row[name]) for name in ("milliseconds", "queued", "host")),
        number(row["images_per_second"]), number((row["memory"] or 0) / 2**20),
        number(gflops), number(part) if row["what"] != "ceiling" else "", number(row["gigabytes"]),
    ]  # fmt: skip


def used_times(rows: Sequence[Record], measured: dict[str, float]) -> list[int]:
    """Return which of TIMES one of the rows has."""
    numbers = [times(row, measured) for row in rows]
    return [i for i in range(len(TIMES)) if any(each[i] for each in numbers if each)]


def why_not(row: Record) -> str:
    """Return why a timing has no time."""
    return row.get("missing") or f"FAILED {row['problem']}"


def timings_table(
    what: str, rows: Sequence[Record], measured: dict[str, float]
) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of one task: only columns that one of its rows has."""
    used, lines = used_times(rows, measured) or [0], []
    for row in rows:
        found = times(row, measured)
        cells = [found[i] for i in used] if found else [why_not(row), *[""] * (len(used) - 1)]
        lines.append([row.get("who", row["name"]), *cells])
    return [what, *(TIMES[i] for i in used)], lines


def states_table(rows: Sequence[Record]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the lines of the states between the rows."""
    names = [name for name in rows[-1] if name not in ("kind", "when")]
    lines = [[row["when"], *(row.get(name, "") for name in names)] for row in rows]
    return ["the card meanwhile", *names], lines


def share(kernel: Record, measured: dict[str, float]) -> tuple[float, str] | None:
    """Return how much of the time a kernel would need at the card's measured ceilings, in %.

    That is the larger of its operations at the ceiling of its arithmetic, and of its bytes at the
    ceiling of a copy, with the name of that ceiling; None if neither is known.
    """
    nanoseconds = 1e3 * kernel["microseconds"]
    arithmetic = TENSOR_CORES if kernel["name"].startswith(TENSOR) else FFMA
    found = [
        (100 * amount / measured[name] / nanoseconds, name)
        for amount, name in ((kernel["flops"], arithmetic), (kernel["bytes"], COPY))
        if amount and name in measured and nanoseconds
    ]
    return max(found, default=None)


def compiled(row: Record) -> str:
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
    """Return the table of the kernels without options, and of all that need a stack."""
    if row["kind"] == "lost":
        return f"{row['name']}: FAILED {row['problem']}"
    shown, rest = notable(row)
    lines = []
    for each in shown:
        cells = ("registers", "stack", "shared")
        found = ["not available" if each[name] is None else f"{each[name]}" for name in cells]
        name = f"{each['name']} {each['options']}".strip()
        lines.append([name, *found, by_the_table(each)])
    head = ["kernel", "registers", "stack, bytes", "shared, bytes"]
    table = cli.markdown([*head, "registers/stack of the table in kernels/cuda/README.md"], lines)
    return f"{table}\n\n{variants(rest)}"


def variants(rest: int) -> str:
    """Return a sentence about the kernels that notable() leaves out."""
    return f"Variants with options, of which the table has no numbers, without a stack: {rest}."


def by_the_table(needs: Record) -> str:
    """Return registers/stack of a kernel by the table, and how this GPU's numbers differ from them.

    That is a remark, not a failure: another version of the compiler needs a few registers more.
    """
    if needs["expected"] is None:
        return "no numbers"
    remarks = [
        f"{needs[name] - expected:+d} {name}"
        for name, expected in zip(("registers", "stack"), needs["expected"], strict=True)
        if needs[name] not in (None, expected)
    ]
    return ", ".join(["/".join(map(str, needs["expected"])), *remarks])


def notable(row: Record) -> tuple[list[Record], int]:
    """Return the kernels without options or with a stack, and the number of the others."""
    kernels = row.get("kernels", ())
    shown = [each for each in kernels if not each["options"] or each["stack"] != 0]
    return shown, len(kernels) - len(shown)


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


def sanitizer(rows: list[Record]) -> str:
    lines = []
    for row in rows:
        ok, tool = row.get("ok"), row.get("tool", row["name"])
        if row["kind"] == "lost" or ok is None:
            why = row.get("summary") or row["problem"]
            lines.append(f"compute-sanitizer, {tool}: did not run ({why})")
        else:
            lines.append(f"compute-sanitizer, {tool}: {verdict(ok)} ({row['summary']})")
    return "\n".join(lines) or "compute-sanitizer did not run."
