"""The loop of a kernel that does its arithmetic, and how busy it can keep the units that do it.

From machine code alone: no memory is slow here, and no warp waits for another. So each number is an
upper bound. A multiprocessor has four partitions. Each issues one instruction of a warp per cycle,
and its units take one every so many cycles. All four share one shared memory, which answers one
wavefront per cycle (Jia et al. 2018, "Dissecting the NVIDIA Volta GPU
Architecture via Microbenchmarking"; CUDA C++ Programming Guide, "Arithmetic Instructions").
"""

import math
import re
from collections import Counter
from typing import Any, NamedTuple

from minddpm.kernels.cuda.analysis.disassembly import Code, name, uses_tensor_cores

INSTRUCTION = 16  # bytes
PARTITIONS = 4


class Unit(NamedTuple):
    """A unit of a partition: which instructions it executes, and how many cycles it takes each."""

    names: frozenset[str]
    cycles: int


# IMAD shares the multipliers with FFMA, and is also how the compiler moves and adds integers.
FMA = frozenset(("FFMA", "FMUL", "FADD", "IMAD"))
# fmt: off
UNITS = {
    "integers": Unit(
        frozenset((
            "FLO", "FMNMX", "FSEL", "FSETP", "IABS", "IADD", "IADD3", "IMNMX", "ISETP", "LEA",
            "LOP3", "MOV", "PLOP3", "POPC", "PRMT", "P2R", "R2P", "SEL", "SHF", "VIADD", "VIMNMX",
        )),
        2,
    ),
    "special functions": Unit(frozenset(("F2F", "F2I", "I2F", "I2I", "MUFU")), 8),
}
# fmt: on
DIVISION = frozenset(("F2I", "I2F", "MUFU"))  # a division of integers has some of them
FMA_CYCLES = {75: 2, 80: 2}  # 16 lanes for float32; later architectures have 32: 1 cycle
SHARED = frozenset(("LDS", "STS", "LDSM", "LDGSTS"))
GLOBAL, FROM_SHARED = ("LDG", "LDGSTS"), ("LDS",)  # loads
LANES = 32


class Loop(NamedTuple):
    """One iteration of the loop, as a warp runs it.

    arithmetic: FFMA, or the tensor cores' instructions. products: numbers that these multiply.
    cycles: that each unit takes, the least; shared memory's for all four partitions. divisions:
    special functions of which divisions consist. loads: bytes that a thread loads from global
    memory.
    """

    instructions: int
    arithmetic: int
    products: int
    cycles: dict[str, int]
    divisions: int
    loads: int

    @property
    def limit(self) -> str:
        """What takes the most cycles."""
        return max(self.cycles, key=lambda unit: self.cycles[unit])

    def ceiling(self, architecture: int) -> float:
        """Return the largest share of its time in which the FMA unit computes FFMA: 0 to 1."""
        return self.arithmetic * FMA_CYCLES.get(architecture, 1) / self.cycles[self.limit]


def _is_arithmetic(instruction: dict[str, Any]) -> bool:
    return name(instruction) == "FFMA" or uses_tensor_cores(name(instruction))


def _products(instruction: dict[str, Any]) -> int:
    """Return the products of FFMA's lanes, or of HMMA.16816: 16 x 8 x 16."""
    shape = re.search(r"MMA\.(16)(8)(\d+)", instruction["opcode"])
    return math.prod(map(int, shape.groups())) if shape else LANES * _is_arithmetic(instruction)


def _is_vector_load(instruction: dict[str, Any], names: tuple[str, ...] = GLOBAL) -> bool:
    return name(instruction) in names and "128" in instruction["opcode"]


def main_loops(code: Code, architecture: int) -> list[Loop]:
    """Return the innermost loops that do arithmetic on vectors from memory, the best path of each.

    From global memory, or from shared memory if no loop fetches any from global. The best path has
    the most arithmetic, then the most vectors and stores to shared memory, then the fewest
    instructions: what whole tiles of aligned arrays take. Loops inside it run once.
    """
    jumps = {i: _target(at) for i, at in enumerate(code) if name(at) == "BRA"}
    loops = [(start, i) for i, start in jumps.items() if start is not None and start <= i]
    loops = [loop for loop in loops if any(map(_is_arithmetic, code[loop[0] : loop[1]]))]
    paths = [
        _best_path(code, jumps, start, end)
        for start, end in loops
        if not any((s, e) != (start, end) and start <= s and e <= end for s, e in loops)
    ]
    for memory in (GLOBAL, FROM_SHARED):
        if found := [path for path in paths if any(_is_vector_load(at, memory) for at in path)]:
            return [_counted(path, architecture) for path in found]
    return []


def _target(instruction: dict[str, Any]) -> int | None:
    """Return the index of the instruction to which a branch goes, if it is in the code."""
    operand = instruction["operands"].split(",")[-1].strip()
    return int(operand, 16) // INSTRUCTION if operand.startswith("0x") else None


def _best_path(code: Code, jumps: dict[int, int | None], start: int, end: int) -> Code:
    """Return the instructions of the best path from `start` to `end`."""
    best: dict[int, tuple[tuple[int, int, int], int | None]] = {end: ((0, 0, -1), None)}
    for i in range(end - 1, start - 1, -1):
        leaves = name(code[i]) in ("BRA", "EXIT") and "predicate" not in code[i]
        following = [] if leaves else [i + 1]
        target = jumps.get(i)
        if target is not None and i < target <= end:
            following.append(target)
        options = [(best[f][0], f) for f in following if f in best]
        if options:
            (arithmetic, vectors, length), chosen = max(options)
            value = (
                arithmetic + _is_arithmetic(code[i]),
                vectors + (_is_vector_load(code[i]) or name(code[i]) == "STS"),
                length - 1,
            )
            best[i] = value, chosen
    path, i = [], start if start in best else None
    while i is not None:
        path.append(code[i])
        i = best[i][1]
    return path


def _counted(path: Code, architecture: int) -> Loop:
    names = Counter(map(name, path))
    cycles = {
        "issue": len(path),
        "FMA": FMA_CYCLES.get(architecture, 1) * sum(names[n] for n in FMA),
        "shared memory": PARTITIONS * sum(map(_wavefronts, path)),
    }
    for unit, (its_names, each) in UNITS.items():
        cycles[unit] = each * sum(names[n] for n in its_names)
    divisions = sum(names[n] for n in DIVISION)
    loads = sum(_bytes(at["opcode"]) for at in path if name(at) in ("LDG", "LDGSTS"))
    # FFMA beside tensor cores rounds what they read.
    multiply = [at for at in path if uses_tensor_cores(name(at))] or path
    arithmetic, products = (sum(map(count, multiply)) for count in (_is_arithmetic, _products))
    return Loop(len(path), arithmetic, products, cycles, divisions, loads)


def _wavefronts(instruction: dict[str, Any]) -> int:
    """Return the least wavefronts of an access to shared memory: 128 bytes each."""
    kind, opcode = name(instruction), instruction["opcode"]
    if kind not in SHARED:
        return 0
    if kind == "LDSM":
        return int(opcode[-1])  # matrices
    if kind == "LDS":
        return 2 if "128" in opcode else 1  # lanes may read the same bytes
    return _bytes(opcode) // 4


def _bytes(opcode: str) -> int:
    """Return how many bytes of each thread an access moves."""
    return next((int(s) // 8 for s in opcode.split(".") if s in ("64", "128")), 4)
