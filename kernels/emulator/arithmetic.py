"""How many floating-point operations a kernel made: read in its library, where they stand.

A library of profile mode is not optimised, so that every +, -, * and / of the source is one
instruction there; a fused multiply-add of a GPU is two. In each stretch of code without a branch
stands a call that counts how often it is run (profile.cc). Functions such as sqrtf and expf are
the C library's, and count nothing.
"""

import platform
import re
import subprocess
from functools import cache
from pathlib import Path

from minddpm.errors import InputError
from minddpm.kernels.emulator.build import source_lines

_LINE = re.compile(r" *([0-9a-f]+):\t(\S+)\s*(.*)")
_OPERATION = re.compile(r"v?(?:add|sub|mul|div)s[sd]")
_NONE_OF_ITS_OWN = "half.h:"  # where it makes float32 of half, as the hardware does by itself


@cache
def operations(library: Path) -> dict[int, int]:
    """For each stretch, by the address behind its call, how many operations stand in it.

    Raises InputError on another processor than x86-64, whose instructions it does not know, and
    without objdump.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise InputError("operations are counted on x86-64 only: leave them out here.")
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(library)]
    try:
        code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise InputError(
            "operations are counted with objdump, which is not installed: install it (the package "
            "binutils of Debian and Ubuntu)."
        ) from None
    stretch, called, found = None, False, []
    for line in code.splitlines():
        parts = _LINE.fullmatch(line)
        if parts is None:  # another function begins
            stretch = None
            continue
        place = int(parts[1], 16)
        if called:
            stretch = place
        called = "__sanitizer_cov_trace_pc" in parts[3]
        if stretch is not None and _OPERATION.fullmatch(parts[2]):
            found.append((stretch, place))
    lines = source_lines(library, (place for _, place in found))
    counts: dict[int, int] = {}
    for stretch, place in found:
        if not lines[place].startswith(_NONE_OF_ITS_OWN):
            counts[stretch] = counts.get(stretch, 0) + 1
    return counts
