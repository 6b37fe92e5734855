"""Rows to lanes and back: transposing a matrix so that each of its rows lies in one lane."""

from llvmlite import ir

from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.memory import floats
from minddpm.kernels.cpu.vector.instructions import BYTES, I64, LANES, Emitter, kernel

T = min(LANES, 8)  # channels that are transposed together


def addresses(e: Emitter, x, step, rows) -> list[list[ir.Value]]:
    """Return the addresses of rows r + T g of x, [T][LANES / T]; rows beyond the last repeat it."""
    last = e.offset(rows, -1)

    def row(r: int):
        r = ir.Constant(I64, r)
        return e.offset(x, e.b.mul(step, e.b.select(e.b.icmp_signed("<", r, last), r, last)))

    return [[row(r) for r in range(first, LANES, T)] for first in range(T)]


def exchange(e: Emitter, x: list[ir.Value]) -> list[ir.Value]:
    """Exchange rows and lanes of T vectors: lane r + T g of vector d and lane d + T g of vector r.

    Each step exchanges one bit of r with the same bit of d.
    """
    bit = T // 2
    while bit:
        low = [i if not i & bit else LANES + i - bit for i in range(LANES)]
        high = [i + bit if not i & bit else LANES + i for i in range(LANES)]
        for d in range(T):
            if not d & bit:
                a, b = x[d], x[d + bit]
                x[d], x[d + bit] = e.shuffle(a, b, low), e.shuffle(a, b, high)
        bit //= 2
    return x


@kernel
def transpose(e: Emitter, x, step, rows, out, tiles) -> None:
    """out[d, r] = x[r, d] for LANES rows and T channels per tile."""
    at = addresses(e, x, step, rows)

    def one_tile(moving, nothing):
        by, to = moving
        lines = [e.load_parts([e.offset(a, by) for a in parts]) for parts in at]
        for d, line in enumerate(exchange(e, lines)):
            e.store(line, to, d * BYTES)
        return nothing

    e.loop(tiles, [(ir.Constant(I64, 0), 4 * T), (out, T * BYTES)], [], one_tile)


@kernel
def transpose_back(e: Emitter, x, out, step, rows, tiles) -> None:
    """out[r, d] = x[d, r], storing the last lane first: the last row overwrites lanes beyond it."""
    at = addresses(e, out, step, rows)

    def one_tile(moving, nothing):
        source, by = moving
        lines = exchange(e, [e.load(source, d * BYTES) for d in range(T)])
        for g in reversed(range(LANES // T)):
            for line, parts in reversed(list(zip(lines, at, strict=True))):
                e.store_part(line, g * T, T, e.offset(parts[g], by))
        return nothing

    e.loop(tiles, [(x, T * BYTES), (ir.Constant(I64, 0), 4 * T)], [], one_tile)


@serial
def to_lanes(x, C, rows, D, out):
    """Transpose `rows` rows of D channels, C floats apart, to out [D, LANES]; repeat the last."""
    if D >= T:
        transpose((x, 4 * C, rows, out, D // T))
    for d in range(D - D % T, D):
        for r in range(LANES):
            floats(out + d * BYTES + 4 * r, 1)[0] = floats(x + 4 * (min(r, rows - 1) * C + d), 1)[0]


@serial
def from_lanes(x, out, C, rows, D):
    """Transpose x [D, LANES] back into `rows` rows of D channels, C floats apart."""
    if D >= T:
        transpose_back((x, out, 4 * C, rows, D // T))
    for d in range(D - D % T, D):
        for r in range(rows):
            floats(out + 4 * (r * C + d), 1)[0] = floats(x + d * BYTES + 4 * r, 1)[0]
