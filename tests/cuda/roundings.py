"""Rounding to the formats that tensor cores read, in NumPy: half, bfloat16 and TF32."""

import numpy as np


def to_half(x):
    """Round to half; numbers beyond its range become infinite."""
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def to_tf32(x):
    """Round to 11 significant bits, ties away from zero."""
    return ((x.view(np.uint32) + np.uint32(1 << 12)) & ~np.uint32((1 << 13) - 1)).view(np.float32)


def to_bfloat16(x):
    """Round finite numbers to 8 significant bits, ties to even."""
    bits = x.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) & ~np.uint32(0xFFFF)).view(np.float32)


def cut_to_tf32(x):
    """Truncate to 11 significant bits."""
    return (x.view(np.uint32) & ~np.uint32((1 << 13) - 1)).view(np.float32)


def bits_of_bfloat16(x):
    """Return the 16 bits of bfloat16, rounded."""
    return (to_bfloat16(x).view(np.uint32) >> 16).astype(np.uint16)


# From float32 to the 16-bit array that the emulator's kernels take.
NARROW = {"half": lambda x: x.astype(np.float16), "bf16": bits_of_bfloat16}
