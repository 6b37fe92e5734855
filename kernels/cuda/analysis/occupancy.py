"""Theoretical occupancy: the resident warps of a multiprocessor divided by its maximum.

Registers, shared memory, warps and blocks each set a limit, and the smallest one counts. Occupancy
shows how many warps can work while others wait for memory, not how fast a kernel is: if each thread
has enough independent work, an occupancy of 25 % can be plenty.

The limits are from NVIDIA's CUDA C++ Programming Guide ("Compute Capabilities", the table of
technical specifications). The allocation units are from cuda_occupancy.h, the occupancy calculator
in CUDA's headers, to which tests/cuda/test_nvrtc.py compares the results.
"""

from typing import NamedTuple

from minddpm.errors import InputError

WARP = 32
REGISTERS = 65536  # of a multiprocessor, on all architectures here
PARTITIONS = 4  # of a multiprocessor; one of them holds all registers of a warp
REGISTER_UNIT = 256  # registers are allocated to a warp in multiples of this


class Limits(NamedTuple):
    """What one multiprocessor holds.

    shared, reserved (by the driver, for each block), unit (of allocation): bytes of shared memory.
    """

    warps: int
    blocks: int
    shared: int
    reserved: int
    unit: int


LIMITS = {
    75: Limits(warps=32, blocks=16, shared=64 * 1024, reserved=0, unit=256),
    80: Limits(warps=64, blocks=32, shared=164 * 1024, reserved=1024, unit=128),
    86: Limits(warps=48, blocks=16, shared=100 * 1024, reserved=1024, unit=128),
    89: Limits(warps=48, blocks=24, shared=100 * 1024, reserved=1024, unit=128),
    90: Limits(warps=64, blocks=32, shared=228 * 1024, reserved=1024, unit=128),
    100: Limits(warps=64, blocks=32, shared=228 * 1024, reserved=1024, unit=128),
    120: Limits(warps=48, blocks=24, shared=100 * 1024, reserved=1024, unit=128),
}


def resident_blocks(architecture: int, threads: int, registers: int, shared: int) -> int:
    """Return how many blocks one multiprocessor of sm_<architecture> holds; 0 if not even one.

    threads: of a block. registers: of a thread. shared: bytes of a block.
    Raises InputError for an architecture or a block that does not exist.
    """
    if architecture not in LIMITS:
        known = ", ".join(f"sm_{known}" for known in LIMITS)
        raise InputError(f"the limits of sm_{architecture} are not known here: use {known}.")
    if not 1 <= threads <= 1024:
        raise InputError(f"a block cannot have {threads} threads: give 1 to 1024.")
    limits = LIMITS[architecture]
    warps = _units(threads, WARP)
    of_warp = REGISTER_UNIT * max(1, _units(registers * WARP, REGISTER_UNIT))
    of_block = limits.unit * max(1, _units(shared + limits.reserved, limits.unit))
    return min(
        limits.blocks,
        limits.warps // warps,
        REGISTERS // PARTITIONS // of_warp * PARTITIONS // warps,
        limits.shared // of_block,
    )


def occupancy(architecture: int, threads: int, registers: int, shared: int) -> float:
    """Return the warps of resident_blocks() divided by the maximum: 0 to 1."""
    blocks = resident_blocks(architecture, threads, registers, shared)
    return blocks * _units(threads, WARP) / LIMITS[architecture].warps


def _units(amount: int, unit: int) -> int:
    return -(-amount // unit)
