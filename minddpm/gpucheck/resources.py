"""What the compiled kernels need on this GPU, beside the table of kernels/cuda/README.md.

The table was made by another version of the compiler: numbers may differ. It is beside the kernels
in a checkout, and missing where only the package is installed.
"""

from functools import cache
from typing import Any, NamedTuple

from minddpm import backend
from minddpm.kernels.cuda.launch import FOLDER, compiled_kernels
from minddpm.kernels.gpu import architecture

ATTRIBUTES = "num_regs", "local_size_bytes", "shared_size_bytes"
ARCHITECTURES = (75, 80, 89, 90)  # of the table's registers, in this order


class Resources(NamedTuple):
    """What one kernel needs; None if the device does not say.

    registers: of a thread. stack: bytes of its local memory, of which spills are a part. shared:
    bytes of a block. expected: registers and stack of the table; None if it lacks the kernel.
    """

    name: str
    options: str
    registers: int | None
    stack: int | None
    shared: int | None
    expected: tuple[int, int] | None


def resources() -> list[Resources]:
    """Return those of all kernels that this process has launched, in order of their names."""
    has = architecture(backend.xp.cuda)
    found = []
    for (file, kernel_name, options), kernel in compiled_kernels().items():
        title = f"{file.removesuffix('.cu')}: {kernel_name}"
        numbers = [getattr(kernel, name, None) for name in ATTRIBUTES]  # the stand-in has none
        expected = None if options else table().get((title, has))
        found.append(Resources(title, " ".join(options), *numbers, expected))
    return sorted(found, key=lambda each: each[:2])


@cache
def table() -> dict[tuple[str, int], tuple[int, int]]:
    """Return registers and stack of each kernel without options on each architecture, if known."""
    file, found = FOLDER / "README.md", {}
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    rows = text.partition("<!-- benchmark:compiled -->")[2].partition("<!-- /benchmark -->")[0]
    head, *lines = [_cells(line) for line in rows.strip().splitlines()] or [[]]
    for cells in lines[1:]:
        row: dict[str, Any] = dict(zip(head, cells, strict=True))
        registers = zip(ARCHITECTURES, row["registers"].split("/"), strict=True)
        stack = int(row["stack, at most"])
        found |= {(row["kernel"], a): (int(n), stack) for a, n in registers if n != "-"}
    return found


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]
