"""The floating-point operations of a kernel, found by disassembling its library.

A library of profile mode is not optimised, so every +, -, * and / of the source is one instruction;
a GPU's fused multiply-add counts as two. Each basic block (code without a branch) begins with a
call that counts its executions (profile.cc). Functions such as sqrtf and expf belong to the C
library and are not counted.
"""

import platform
import re
import subprocess
from functools import cache
from pathlib import Path

from minddpm.errors import InputError
from minddpm.kernels.emulator.build import source_lines

_INSTRUCTION = re.compile(r" *([0-9a-f]+):\t(\S+)\s*(.*)")
_OPERATION = re.compile(r"v?(?:add|sub|mul|div)s[sd]")
_NOT_COUNTED = "half.h:"  # converts half to float32, which a GPU does without arithmetic


@cache
def operations(library: Path) -> dict[int, dict[str, int]]:
    """Return the number of operations on each line of each basic block.

    A block is named by the address after its counting call, a line by "file:line".

    Raises InputError if the processor is not x86-64 (only its instructions are known here) or
    objdump is not installed.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        raise InputError("operations are counted on x86-64 only: leave them out on this machine.")
    command = ["objdump", "--disassemble", "--no-show-raw-insn", str(library)]
    try:
        code = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        raise InputError(
            "operations are counted with objdump, which is not installed: install it (the package "
            "binutils of Debian and Ubuntu)."
        ) from None
    block, after_call, found = None, False, []
    for line in code.splitlines():
        parts = _INSTRUCTION.fullmatch(line)
        if parts is None:  # another function begins
            block = None
            continue
        place = int(parts[1], 16)
        if after_call:
            block = place
        after_call = "__sanitizer_cov_trace_pc" in parts[3]
        if block is not None and _OPERATION.fullmatch(parts[2]):
            found.append((block, place))
    lines = source_lines(library, (place for _, place in found))
    counts: dict[int, dict[str, int]] = {}
    for block, place in found:
        if not lines[place].startswith(_NOT_COUNTED):
            of_block = counts.setdefault(block, {})
            of_block[lines[place]] = of_block.get(lines[place], 0) + 1
    return counts
