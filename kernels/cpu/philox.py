"""The generator Philox4x32-10 and the normals made from its words.

kernels/reference/noise.py has the definitions. The loops are plain so that LLVM vectorises them:
they use polynomials instead of calls of log, cos and sin, selections instead of branches, and
NumPy's error model, because Numba's own checks each division for zero. The polynomials are float64
and accurate to float32: some results differ from the reference's in the last bit.
"""

import math

import numpy as np
from numba import njit

from minddpm.kernels.reference.noise import PHILOX_M0, PHILOX_M1, PHILOX_W0, PHILOX_W1

LOW = np.uint64(0xFFFFFFFF)
M0, M1 = np.uint64(PHILOX_M0), np.uint64(PHILOX_M1)
W0, W1 = np.uint64(PHILOX_W0), np.uint64(PHILOX_W1)
B52, B32, B8 = np.uint64(52), np.uint64(32), np.uint64(8)

# A float64 is 2^(E - 1023) (1 + fraction / 2^52), E in the 11 bits above the 52 of the fraction.
FRACTION = np.uint64(2**52 - 1)
ROOT_HALF = np.uint64(0x3FE6A09E667F3BCD)  # the bits of sqrt(1/2)
UP_TO_ONE = np.uint64(0x3FF0000000000000) - ROOT_HALF  # the bits of 1, minus those of sqrt(1/2)

CHUNK = 1024  # numbers that a thread draws at a time: they stay in its cache; a multiple of 4


def key(step: int, seed: int, purpose: int) -> tuple[int, int, int]:
    """Return the arguments step, k0, k1 that select a stream, each as an int64."""
    step = int(step)
    return step - (step >> 63 << 64), seed & 0xFFFFFFFF, purpose & 0xFFFFFFFF


@njit(inline="always")
def philox(block, step, k0, k1):
    """Return the four random words of one block; see kernels.reference.philox4x32."""
    c0, c1 = block & LOW, block >> B32
    c2, c3 = step & LOW, step >> B32
    for _ in range(10):
        p0, p1 = c0 * M0, c2 * M1
        c0, c1, c2, c3 = (p1 >> B32) ^ c1 ^ k0, p1 & LOW, (p0 >> B32) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return c0, c1, c2, c3


@njit(inline="always")
def log(x):
    """Return ln x = e ln 2 + ln m with x = 2^e m and m in [sqrt(1/2), sqrt(2)), for x in (0, 1].

    With s = (m - 1) / (m + 1), ln m = 2 artanh s = 2 (s + s^3/3 + s^5/5 + ...), and |s| < 0.172.
    """
    bits = np.float64(x).view(np.uint64) + UP_TO_ONE
    e = np.int32(bits >> B52) - np.int32(1023)
    m = np.uint64((bits & FRACTION) + ROOT_HALF).view(np.float64)
    s = (m - 1.0) / (m + 1.0)
    q = s * s
    series = 1.0 + q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11)))))
    return np.float64(np.int32(e)) * math.log(2.0) + 2.0 * s * series


@njit(inline="always")
def cos_sin(n):
    """Return cos and sin of 2 pi n / 2^24, int32 n in 0 .. 2^24 - 1: Taylor series within pi / 4.

    angle = quarter pi/2 + y, |y| <= pi/4: each quarter turn maps (cos, sin) to (-sin, cos).
    """
    quarter = (n + np.int32(1 << 21)) >> np.int32(22)
    y = np.float64(np.int32(n - (quarter << np.int32(22)))) * (math.pi / 2 * 2.0**-22)
    q = y * y
    s = 1.0 + q * (-1 / 6 + q * (1 / 120 + q * (-1 / 5040 + q * (1 / 362880 - q / 39916800))))
    c = 1 / 24 + q * (-1 / 720 + q * (1 / 40320 + q * (-1 / 3628800 + q * (1 / 479001600))))
    s, c = y * s, 1.0 + q * (-1 / 2 + q * c)
    odd = (quarter & 1) != 0
    cos, sin = s if odd else c, c if odd else s
    cos = -cos if ((quarter + 1) & 2) != 0 else cos
    sin = -sin if (quarter & 2) != 0 else sin
    return cos, sin


@njit(inline="always")
def box_muller(w1, w2):
    """Return two normals computed from two words; see kernels.reference.random_normal."""
    u1 = np.float64(np.int32(w1 >> B8)) * 2.0**-24 + 2.0**-24
    r = math.sqrt(-2.0 * log(u1))
    cos, sin = cos_sin(np.int32(w2 >> B8))
    return r * cos, r * sin


@njit(error_model="numpy")
def normal_blocks(first_block, step, k0, k1, z):
    """Draw complete blocks of standard normals: z float32 [4 blocks]."""
    k0, k1 = k0 & LOW, k1 & LOW  # tells LLVM that their upper halves are zero
    for i in range(z.size // 4):
        a, b, c, d = philox(first_block + np.uint64(i), step, k0, k1)
        z[4 * i], z[4 * i + 1] = box_muller(a, b)
        z[4 * i + 2], z[4 * i + 3] = box_muller(c, d)
