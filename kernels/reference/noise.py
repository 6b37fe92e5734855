"""Random numbers as a function of (seed, purpose, step, element), noising, the sampler's step.

Philox4x32-10: Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
Normals are computed (Box-Muller) from uniform numbers that are multiples of 2^-24, exact in float32
and equal in all backends; so normals differ only by the rounding of log, sin and cos.

Noising and the sampler's step come in two versions: with given noise, and with noise drawn in the
same pass (..._normal).
"""

from collections.abc import Sequence
from types import ModuleType

from minddpm.kernels.arrays import Array, array_module

PHILOX_M0, PHILOX_M1 = 0xD2511F53, 0xCD9E8D57  # multipliers, and the Weyl constants added to the
PHILOX_W0, PHILOX_W1 = 0x9E3779B9, 0xBB67AE85  # key each round: the golden ratio and sqrt(3) - 1


def philox4x32(counter: Array, key: tuple[int, int]) -> Array:
    """Return random uint32 [n, 4]: ten rounds of Philox4x32 of the counter uint32 [n, 4].

    key: two integers in 0 .. 2^32 - 1. One round:
    (c0, c1, c2, c3) -> (hi(M1 c2) ^ c1 ^ k0, lo(M1 c2), hi(M0 c0) ^ c3 ^ k1, lo(M0 c0))
    """
    c0, c1, c2, c3 = counter.T.astype("uint64")
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * PHILOX_M0, c2 * PHILOX_M1
        c0, c1 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF
        c2, c3 = (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + PHILOX_W0) & 0xFFFFFFFF, (k1 + PHILOX_W1) & 0xFFFFFFFF
    words = counter.copy()
    words[:, 0], words[:, 1], words[:, 2], words[:, 3] = c0, c1, c2, c3
    return words


def random_bits(
    xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0
) -> Array:
    """Return elements first .. first + n - 1 of the stream (seed, purpose, step), uint32 [n].

    Element i is word i % 4 of the block with counter (i // 4, step) and key (seed, purpose).
    """
    block = xp.arange(first // 4, (first + n + 3) // 4, dtype="uint64")
    counter = xp.empty((len(block), 4), "uint32")
    counter[:, 0], counter[:, 1] = block & 0xFFFFFFFF, block >> 32
    counter[:, 2], counter[:, 3] = step & 0xFFFFFFFF, step >> 32
    return philox4x32(counter, (seed, purpose)).reshape(-1)[first % 4 : first % 4 + n]


def random_uniform(
    xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0
) -> Array:
    """Return float32 [n] in [0, 1): the upper 24 bits, exact in float32, times 2^-24."""
    bits = random_bits(xp, n, seed, purpose, step, first)
    return (bits >> 8).astype("float32") * 2.0**-24


def random_normal(
    xp: ModuleType, n: int, seed: int, purpose: int, step: int, first: int = 0
) -> Array:
    """Return standard normals, float32 [n], |z| <= 5.77: each pair from two words (Box-Muller).

    r = sqrt(-2 ln u1);  z = r cos(2 pi u2), r sin(2 pi u2);  u1 in (0, 1], u2 in [0, 1)
    """
    odd = first % 2  # draw complete pairs
    bits = random_bits(xp, n + odd + (n + odd) % 2, seed, purpose, step, first - odd)
    u = (bits >> 8).reshape(-1, 2) * 2.0**-24
    r, angle = xp.sqrt(-2 * xp.log(u[:, 0] + 2.0**-24)), 2 * xp.pi * u[:, 1]
    z = xp.stack([r * xp.cos(angle), r * xp.sin(angle)], axis=1)
    return z.reshape(-1)[odd : odd + n].astype("float32")


def q_sample(x0: Array, noise: Array, a: Array, b: Array) -> Array:
    """Return x_t = a x0 + b noise with one a and b per image: x0, noise [N, ...], a, b [N]."""
    ones = (1,) * (x0.ndim - 1)
    return a.reshape(-1, *ones) * x0 + b.reshape(-1, *ones) * noise


def sampler_step(
    x_t: Array, output: Array, noise: Array | None, coefficients: Sequence[float], clip: bool
) -> tuple[Array, Array]:
    """Return (x_{t-1}, pred_x0), both [N, H, W, C]: one step of any first-order sampler.

    pred_x0 = px x_t + po output, clipped to [-1, 1] if clip
    x_{t-1} = k0 pred_x0 + kx x_t + ko output + sigma noise
    coefficients = (px, po, k0, kx, ko, sigma); noise may be None if sigma = 0.
    """
    px, po, k0, kx, ko, sigma = coefficients
    pred_x0 = px * x_t + po * output
    if clip:
        pred_x0 = pred_x0.clip(-1, 1)
    x_prev = k0 * pred_x0 + kx * x_t + ko * output
    if sigma != 0:
        x_prev += sigma * noise
    return x_prev, pred_x0


def q_sample_normal(
    x0: Array, a: Array, b: Array, seed: int, purpose: int, step: int, first: int = 0
) -> tuple[Array, Array]:
    """Return x_t of q_sample and its noise, drawn by random_normal in the same pass."""
    noise = random_normal(array_module(x0), x0.size, seed, purpose, step, first).reshape(x0.shape)
    return q_sample(x0, noise, a, b), noise


def sampler_step_normal(
    x_t: Array, output: Array, coefficients: Sequence[float], clip: bool,
    seed: int, purpose: int, step: int, first: int = 0,
) -> tuple[Array, Array]:  # fmt: skip
    """Apply sampler_step with noise drawn by random_normal in the same pass."""
    noise = random_normal(array_module(x_t), x_t.size, seed, purpose, step, first)
    return sampler_step(x_t, output, noise.reshape(x_t.shape), coefficients, clip)
