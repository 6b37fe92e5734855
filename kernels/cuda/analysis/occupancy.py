"""Theoretical occupancy: how many of the warps that a multiprocessor could hold fit on it.

Registers, shared memory, warps and blocks each set a limit, and the smallest one counts. It says
how much there is to do while some warps wait for memory, not how fast a kernel is: with enough
independent work in each thread a quarter may be plenty.

The limits are those of NVIDIA's CUDA C++ Programming Guide ("Compute Capabilities", the table of
technical specifications); how much is given at a time is from cuda_occupancy.h, the occupancy
calculator in CUDA's headers, with which tests/test_nvrtc.py compares.
"""

from typing import NamedTuple

from minddpm.errors import InputError

WARP = 32
REGISTERS = 65536  # of a multiprocessor, all architectures here
PARTITIONS = 4  # of a multiprocessor; a warp's registers are all in one of them
REGISTER_UNIT = 256  # registers are given to a warp so many at a time


class Limits(NamedTuple):
    """What one multiprocessor holds. shared, reserved (by the driver, each block), unit: bytes."""

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
    """Blocks that one multiprocessor of sm_<architecture> holds at a time; 0 if not even one.

    threads: of a block. registers: of a thread. shared: bytes of a block, static and dynamic.
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
    """The warps of resident_blocks() over the most that there can be: 0 to 1."""
    blocks = resident_blocks(architecture, threads, registers, shared)
    return blocks * _units(threads, WARP) / LIMITS[architecture].warps


def _units(amount: int, unit: int) -> int:
    return -(-amount // unit)
