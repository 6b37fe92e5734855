"""The cost of a kernel's memory accesses, line by line, as a table.

    library = Library(source, path, mode="profile")
    library.launch(...)
    print(table(library.profile(), library.operations()))

profile.cc documents how accesses are counted, arithmetic.py how operations are counted.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class Request(NamedTuple):
    """One request of a warp, lane by lane.

    array: "argument 0", or the name of a shared array. block, warp: their numbers. bytes: of each
    lane. transactions, ideal: as of a Line. at: for each lane the offset of its bytes in the array;
    None if the lane takes no part.
    """

    array: str
    block: int
    warp: int
    bytes: int
    transactions: int
    ideal: int
    at: tuple[int | None, ...]


class Line(NamedTuple):
    """The accesses of one kind that a line of a kernel makes to one kind of memory.

    place: "file:line". space: "global" or "shared". kind: "load", "store" or "atomic".
    requests: executions by a warp. bytes: distinct bytes that the lanes of each request access.
    transactions: sectors of 32 bytes (global), or passes over the banks (shared); ideal: the
    fewest possible; worst: most sectors of one request, or most ways of a bank conflict. lanes:
    those that take part, summed over the requests. costliest: of each array, one request with the
    most transactions.
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
    lanes: int
    costliest: tuple[Request, ...]

    def plus(self, other: "Line") -> "Line":
        """Return the sum of this and more accesses of the same kind by the same line."""
        costliest: dict[str, Request] = {}
        for request in (*self.costliest, *other.costliest):
            known = costliest.setdefault(request.array, request)
            if request.transactions > known.transactions:
                costliest[request.array] = request
        return self._replace(
            requests=self.requests + other.requests,
            bytes=self.bytes + other.bytes,
            transactions=self.transactions + other.transactions,
            ideal=self.ideal + other.ideal,
            worst=max(self.worst, other.worst),
            lanes=self.lanes + other.lanes,
            costliest=tuple(costliest.values()),
        )


def totals(operations: Mapping[tuple[str, str], int]) -> dict[str, int]:
    """Return the operations of each kernel, from those of its lines."""
    of_kernel: Counter[str] = Counter()
    for (kernel, _), count in operations.items():
        of_kernel[kernel] += count
    return dict(of_kernel)


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


def table(lines: Sequence[Line], operations: Mapping[tuple[str, str], int]) -> str:
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
    return "\n".join([*text, *summary(lines, operations)])


def summary(lines: Iterable[Line], operations: Mapping[tuple[str, str], int]) -> list[str]:
    """Return a sentence for each kernel: its operations, and the bytes it moves."""
    counts = totals(operations)
    return [
        f"{kernel}: {counts.get(kernel, 0):,} operations, {read:,} bytes read, {written:,} "
        f"written: {counts.get(kernel, 0) / (read + written):.2f} operations for a byte"
        for kernel, (read, written) in global_bytes(lines).items()
    ]
