"""The cost of a kernel's memory accesses, line by line, as a table.

    library = Library(source, path, mode="profile")
    library.launch(...)
    print(table(library.profile(), library.flops()))

profile.cc documents how accesses are counted, arithmetic.py how operations are counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Line(NamedTuple):
    """The accesses of one kind that a line of a kernel makes to one kind of memory.

    place: "file:line". space: "global" or "shared". kind: "load", "store" or "atomic".
    requests: executions by a warp. bytes: distinct bytes that the lanes of each request access.
    transactions: sectors of 32 bytes (global), or passes over the banks (shared); ideal: the
    fewest possible; worst: most sectors of one request, or most ways of a bank conflict.
    """

    kernel: str
    place: str
    space: str
    kind: str
    requests: int
    bytes: int
    transactions: int
    ideal: int
    worst: int


def global_bytes(lines: Iterable[Line]) -> dict[str, tuple[int, int]]:
    """Return for each kernel the bytes read from and written to global memory, in full sectors.

    An atomic operation counts as both. Caches are not modelled.
    """
    moved: dict[str, tuple[int, int]] = {}
    for line in lines:
        if line.space == "global":
            read, written = moved.get(line.kernel, (0, 0))
            read += 32 * line.transactions * (line.kind != "store")
            written += 32 * line.transactions * (line.kind != "load")
            moved[line.kernel] = read, written
    return moved


def table(lines: Sequence[Line], flops: Mapping[str, int]) -> str:
    """Return a text table with one row for each line, and below it the totals of each kernel."""
    heading = ("place", "memory", "access", "requests", "per request", "ideal", "worst")
    rows = [heading]
    kernel = None
    for line in lines:
        if line.kernel != kernel:
            kernel = line.kernel
            rows.append((kernel, *[""] * (len(heading) - 1)))
        rows.append(
            (
                line.place, line.space, line.kind, str(line.requests),
                f"{line.transactions / line.requests:.2f}", f"{line.ideal / line.requests:.2f}",
                str(line.worst),
            )
        )  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    text = [
        "  ".join(
            cell.ljust(width) if i < 3 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    for kernel, (read, written) in global_bytes(lines).items():
        count = flops.get(kernel, 0)
        text.append(
            f"{kernel}: {count:,} operations, {read:,} bytes read, {written:,} written: "
            f"{count / (read + written):.2f} operations for a byte"
        )
    return "\n".join(text)
