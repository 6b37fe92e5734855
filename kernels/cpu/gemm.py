"""The register tile: the innermost product, on which every convolution of this kernel set rests.

All operands are cut into blocks of W channels, so that every address inside the tile is a constant:

    A  [blocks, rows, W]       a row of a block is one vector of W channels
    B  [blocks * W, 2, W]      for each channel of A two vectors of output channels
    C  [2, rows, W]            two output blocks

C[j, m, :] = sum over k of A[k // W, m, k % W] * B[k, j, :]: one broadcast of A meets two vectors of
B in 2 ROWS accumulators that never leave the registers. For each k that is 2 ROWS multiply-adds on
ROWS + 2 loads, and the multiply-add units, not the loads, are the limit.
"""

from llvmlite import ir

from minddpm.kernels.cpu.vector import BYTES, I64, ROWS, Emitter, W, kernel

# The transposed tile has a block of W rows to cover, in equal parts.
ROWS_T = {16: 8, 8: 4, 4: 4}[W]


@kernel
def product_full(e: Emitter, a, b, c, blocks, a_block, c_block) -> None:
    """ROWS rows of C; a_block and c_block: bytes from one block to the next."""

    def one_block(at, acc):
        pa, pb = at
        for k in range(W):
            w = [e.load(pb, (2 * k + j) * BYTES) for j in range(2)]
            for m in range(ROWS):
                x = e.broadcast(pa, m * BYTES + 4 * k)
                for j in range(2):
                    acc[2 * m + j] = e.fma(x, w[j], acc[2 * m + j])
        return acc

    zeros = [e.const(0)] * (2 * ROWS)
    acc = e.loop(blocks, [(a, a_block), (b, 2 * W * BYTES)], zeros, one_block)
    for j in range(2):
        to = e.offset(c, e.b.mul(c_block, ir.Constant(I64, j)))
        for m in range(ROWS):
            e.store(acc[2 * m + j], to, m * BYTES)


@kernel
def product_transposed(e: Emitter, a, b, c, rows, a_row, b_row, b_block, c_row) -> None:
    """C[m, j, :] += sum over rows r of A[r, m] * B[r, j, :], for m < ROWS_T and two blocks j.

    The product of a weight's gradient: both operands are walked along their rows. Strides in bytes:
    a_row, b_row from row to row, b_block from one block of B to the next, c_row from m to m + 1.
    """

    def address(m: int):
        return e.offset(c, e.b.mul(c_row, ir.Constant(I64, m)))

    before = [e.load(address(m), j * BYTES) for m in range(ROWS_T) for j in range(2)]

    def one_row(at, acc):
        pa, pb, pb2 = at
        w = [e.load(pb), e.load(pb2)]
        for m in range(ROWS_T):
            x = e.broadcast(pa, 4 * m)
            for j in range(2):
                acc[2 * m + j] = e.fma(x, w[j], acc[2 * m + j])
        return acc

    second = e.offset(b, b_block)
    acc = e.loop(rows, [(a, a_row), (b, b_row), (second, b_row)], before, one_row)
    for m in range(ROWS_T):
        for j in range(2):
            e.store(acc[2 * m + j], address(m), j * BYTES)
