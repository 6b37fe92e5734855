"""The machine instructions that the compiler generated for a kernel, counted by kind.

nvdisasm reads code for all architectures; it is a wheel (pip install nvidia-cuda-nvdisasm). An
instruction in a loop counts once.
"""

import json
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from minddpm.errors import InputError
from minddpm.kernels.cuda.analysis.compile import in_wheels


class Instructions(NamedTuple):
    """Instructions of one kernel.

    fused: FFMA, a multiplication and an addition of float32. tensor: those of the tensor cores.
    wide_loads, wide_shared_loads, wide_stores: 16 bytes a thread from global memory, from shared
    memory, and to global memory. local: loads and stores of a thread's local memory.
    """

    total: int
    fused: int
    tensor: int
    wide_loads: int
    wide_shared_loads: int
    wide_stores: int
    local: int


def available() -> bool:
    """Return whether the wheel is installed."""
    return in_wheels("nvdisasm") is not None


Code = list[dict[str, Any]]  # of one kernel: "opcode", "operands" and "predicate" of each


@lru_cache(maxsize=8)  # all kernels of a program are asked for, on one card after another
def disassemble(cubin: bytes) -> dict[str, Code]:
    """Return the instructions of each kernel. cubin: machine code, as compile() returns it.

    Raises InputError if nvdisasm is not installed, RuntimeError with its log if it fails.
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
    return {function["function-name"]: function["sass-instructions"] for function in functions}


def name(instruction: dict[str, Any]) -> str:
    """Return an instruction's name without suffixes: LDG of LDG.E.128.CONSTANT."""
    return instruction["opcode"].partition(".")[0]


def uses_tensor_cores(name: str) -> bool:
    return name.endswith("MMA")  # excludes HFMA2.MMA, which uses none


def count(code: Code) -> Instructions:
    """Count instructions by kind."""
    numbers = dict.fromkeys(Instructions._fields, 0)
    for instruction in code:
        name, *suffixes = instruction["opcode"].split(".")
        wide = "128" in suffixes
        numbers["total"] += name != "NOP"  # NOP pads the end of the code
        numbers["fused"] += name == "FFMA"
        numbers["tensor"] += uses_tensor_cores(name)
        numbers["wide_loads"] += wide and name == "LDG"
        numbers["wide_shared_loads"] += wide and name == "LDS"
        numbers["wide_stores"] += wide and name == "STG"
        numbers["local"] += name in ("LDL", "STL")
    return Instructions(**numbers)
