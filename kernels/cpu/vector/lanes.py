"""Rows to lanes and back: turning a matrix so that one of its rows lies in one lane of vectors."""

from llvmlite import ir

from minddpm.kernels.cpu.memory import floats, serial
from minddpm.kernels.cpu.vector.instructions import BYTES, I64, Emitter, W, kernel

T = min(W, 8)  # channels that are turned together


def addresses(e: Emitter, x, step, rows) -> list[list[ir.Value]]:
    """[T][W / T]: where row r + T g of x begins; rows beyond the last are the last once more."""
    last = e.offset(rows, -1)

    def row(r: int):
        r = ir.Constant(I64, r)
        return e.offset(x, e.b.mul(step, e.b.select(e.b.icmp_signed("<", r, last), r, last)))

    return [[row(r) for r in range(first, W, T)] for first in range(T)]


def exchange(e: Emitter, x: list[ir.Value]) -> list[ir.Value]:
    """T vectors of W lanes: lane r + T g of vector d becomes lane d + T g of vector r.

    One bit of r at a time changes places with the same bit of d.
    """
    bit = T // 2
    while bit:
        low = [i if not i & bit else W + i - bit for i in range(W)]
        high = [i + bit if not i & bit else W + i for i in range(W)]
        for d in range(T):
            if not d & bit:
                a, b = x[d], x[d + bit]
                x[d], x[d + bit] = e.shuffle(a, b, low), e.shuffle(a, b, high)
        bit //= 2
    return x


@kernel
def turn(e: Emitter, x, step, rows, out, tiles) -> None:
    """out[d, r] = x[r, d] for W rows and T channels a tile."""
    at = addresses(e, x, step, rows)

    def one_tile(moving, nothing):
        by, to = moving
        lines = [e.load_parts([e.offset(a, by) for a in parts]) for parts in at]
        for d, line in enumerate(exchange(e, lines)):
            e.store(line, to, d * BYTES)
        return nothing

    e.loop(tiles, [(ir.Constant(I64, 0), 4 * T), (out, T * BYTES)], [], one_tile)


@kernel
def turn_back(e: Emitter, x, out, step, rows, tiles) -> None:
    """out[r, d] = x[d, r], from the last lane down: the last row overwrites those beyond it."""
    at = addresses(e, out, step, rows)

    def one_tile(moving, nothing):
        source, by = moving
        lines = exchange(e, [e.load(source, d * BYTES) for d in range(T)])
        for g in reversed(range(W // T)):
            for line, parts in reversed(list(zip(lines, at, strict=True))):
                e.store_part(line, g * T, T, e.offset(parts[g], by))
        return nothing

    e.loop(tiles, [(x, T * BYTES), (ir.Constant(I64, 0), 4 * T)], [], one_tile)


@serial
def to_lanes(x, C, rows, D, out):
    """out [D, W]: `rows` rows of D channels, C floats from row to row; the last one repeated."""
    if D >= T:
        turn((x, 4 * C, rows, out, D // T))
    for d in range(D - D % T, D):
        for r in range(W):
            floats(out + d * BYTES + 4 * r, 1)[0] = floats(x + 4 * (min(r, rows - 1) * C + d), 1)[0]


@serial
def from_lanes(x, out, C, rows, D):
    """The way back."""
    if D >= T:
        turn_back((x, out, 4 * C, rows, D // T))
    for d in range(D - D % T, D):
        for r in range(rows):
            floats(out + 4 * (r * C + d), 1)[0] = floats(x + d * BYTES + 4 * r, 1)[0]
