"""What the compiler made of a kernel: its machine instructions, counted by kind.

nvdisasm reads the code of any architecture and comes as a wheel (pip install nvidia-cuda-nvdisasm).
An instruction counts once, however often a loop runs it.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from minddpm.errors import InputError
from minddpm.kernels.cuda.analysis.compile import in_wheels


class Instructions(NamedTuple):
    """Instructions of one kernel.

    fused: FFMA, a multiplication and an addition of float32. tensor: those of the tensor cores.
    wide_loads, wide_shared_loads, wide_stores: 16 bytes a thread from global and from shared
    memory, and to global memory. local: loads and stores of a thread's own memory.
    """

    total: int
    fused: int
    tensor: int
    wide_loads: int
    wide_shared_loads: int
    wide_stores: int
    local: int


def available() -> bool:
    """Whether the wheel is installed."""
    return in_wheels("nvdisasm") is not None


def disassemble(cubin: bytes) -> dict[str, Instructions]:
    """kernel -> its instructions. cubin: machine code of one architecture, as compile() gives it.

    Raises InputError without nvdisasm, RuntimeError with its words if it refuses.
    """
    program = in_wheels("nvdisasm")
    if program is None:
        raise InputError('nvdisasm is not installed: pip install -e ".[nvrtc]".')
    with tempfile.TemporaryDirectory() as folder:
        (file := Path(folder, "cubin")).write_bytes(cubin)
        command = [str(program), "-c", "-json", str(file)]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvdisasm does not read this code:\n{done.stderr}")
    _, functions = json.loads(done.stdout)
    return {
        function["function-name"]: count(i["opcode"] for i in function["sass-instructions"])
        for function in functions
    }


def count(opcodes: Iterable[str]) -> Instructions:
    """Instructions by kind, from their names with all suffixes: FFMA, LDG.E.128.CONSTANT, ..."""
    numbers = dict.fromkeys(Instructions._fields, 0)
    for opcode in opcodes:
        name, *suffixes = opcode.split(".")
        wide = "128" in suffixes
        numbers["total"] += name != "NOP"  # which fills the code up at its end
        numbers["fused"] += name == "FFMA"
        numbers["tensor"] += name.endswith("MMA")  # not HFMA2.MMA, which is no tensor instruction
        numbers["wide_loads"] += wide and name == "LDG"
        numbers["wide_shared_loads"] += wide and name == "LDS"
        numbers["wide_stores"] += wide and name == "STG"
        numbers["local"] += name in ("LDL", "STL")
    return Instructions(**numbers)
