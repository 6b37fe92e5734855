"""The register tiles: the innermost products C = A B of every convolution of this kernel set.

A tile holds ROWS x 2 vectors of the result in registers. For each index d of the inner dimension D
it loads two vectors of B and multiplies them by one broadcast number of A per row: 2 ROWS
multiply-adds on ROWS + 2 loads, so that the multiply-add units, not the loads, are the limit. B is
packed in pairs of vectors:

    B  [D, 2, LANES]           for each d two vectors of output channels

There are three tiles, which differ in the layouts of A and C. All strides are in bytes.
"""

from llvmlite import ir

from minddpm.kernels.cpu.vector.instructions import BYTES, I64, LANES, ROWS, Emitter, kernel

HALF = ROWS // 2  # rows of the small tile, for the remaining rows
# Channels are divided into transposed tiles without remainder: LANES is a multiple of ROWS_T.
ROWS_T = {16: 8, 8: 4, 4: 4}[LANES]


def _times(e: Emitter, stride, m: int):
    return e.b.mul(stride, ir.Constant(I64, m))


# --- panels: the product in the middle of Winograd's algorithm ------------------------------------


def _panel_product(rows: int):
    def product(e: Emitter, a, b, c, blocks, a_block, c_block) -> None:
        """C[j, m, :] = sum over d of A[d // LANES, m, d % LANES] * B[d, j, :] for m < rows.

        A [blocks, .., LANES] and C [2, .., LANES] consist of blocks of LANES channels, a_block and
        c_block apart. A row of a block is one vector: all addresses in the loop are constants.
        """

        def one_block(at, acc):
            pa, pb = at
            for d in range(LANES):
                w = [e.load(pb, (2 * d + j) * BYTES) for j in range(2)]
                for m in range(rows):
                    x = e.broadcast(pa, m * BYTES + 4 * d)
                    for j in range(2):
                        acc[2 * m + j] = e.fma(x, w[j], acc[2 * m + j])
            return acc

        zeros = [e.const(0)] * (2 * rows)
        acc = e.loop(blocks, [(a, a_block), (b, 2 * LANES * BYTES)], zeros, one_block)
        for j in range(2):
            to = e.offset(c, _times(e, c_block, j))
            for m in range(rows):
                e.store(acc[2 * m + j], to, m * BYTES)

    product.__name__ = f"panel_product_{rows}"
    return kernel(product)


panel_product, panel_product_half = _panel_product(ROWS), _panel_product(HALF)


# --- images: the product in the definition of a convolution ---------------------------------------


def _strided_product(rows: int, vectors: int = 2):
    def product(
        e: Emitter, a, segments, a_segment, length, a_row, b, bias, extra, extra_row, c, c_row
    ) -> None:
        """C[m, j, :] = bias[j] + extra[m, j] + sum over s, d of A[m, s, d] * B[s length + d, j, :].

        A[m, s, d] is at address a + m a_row + s a_segment + 4 d. If a_row is the step
        from window to window and a_segment that from line to line of the image, this is a
        convolution read directly from the image; with one segment it is a matrix product.
        """
        columns = range(vectors)
        first = [e.load(bias, j * BYTES) for j in columns] * rows

        def one_segment(at, carried):
            def one_d(inner, acc):
                pa, pb = inner
                w = [e.load(pb, j * BYTES) for j in columns]
                for m in range(rows):
                    x = e.broadcast(pa, _times(e, a_row, m))
                    for j in columns:
                        acc[vectors * m + j] = e.fma(x, w[j], acc[vectors * m + j])
                return acc

            pb, *acc = carried
            acc = e.loop(length, [(at[0], 4), (pb, 2 * BYTES)], acc, one_d)
            return [e.offset(pb, _times(e, length, 2 * BYTES)), *acc]

        _, *acc = e.loop(segments, [(a, a_segment)], [b, *first], one_segment)
        for m in range(rows):
            to, more = e.offset(c, _times(e, c_row, m)), e.offset(extra, _times(e, extra_row, m))
            for j in columns:
                e.store(e.add(acc[vectors * m + j], e.load(more, j * BYTES)), to, j * BYTES)

    product.__name__ = f"strided_product_{rows}_{vectors}"
    return kernel(product)


strided_product, strided_product_half = _strided_product(ROWS), _strided_product(HALF)
# The tile for up to LANES columns: half of the work where the second vector would be padding.
strided_product_narrow = _strided_product(ROWS, 1)


# --- transposed: the gradient of a weight ---------------------------------------------------------


def _transposed_product(rows: int, vectors: int):
    def product(
        e: Emitter, a, a_segment, a_row, b, b_segment, b_row, b_vector, segments, count, before,
        before_row, c, c_row,
    ) -> None:  # fmt: skip
        """C[m, j, :] = before[m, j] + sum over s, r of A[s, r, m] * B[s, r, j, :].

        s < segments, r < count. Both operands are read row by row; b_vector: bytes from one vector
        of B to the next. before may be C itself: then the products are added to C.
        """
        rest = range(vectors)

        def one_segment(at, acc):
            def one_row(inner, acc):
                pa, *pb = inner
                w = [e.load(p) for p in pb]
                for m in range(rows):
                    x = e.broadcast(pa, 4 * m)
                    for j in rest:
                        acc[vectors * m + j] = e.fma(x, w[j], acc[vectors * m + j])
                return acc

            pa, pb = at
            starts = [(e.offset(pb, _times(e, b_vector, j)), b_row) for j in rest]
            return e.loop(count, [(pa, a_row), *starts], acc, one_row)

        to = [e.offset(c, _times(e, c_row, m)) for m in range(rows)]
        start = [e.offset(before, _times(e, before_row, m)) for m in range(rows)]
        start = [e.load(at, j * BYTES) for at in start for j in rest]
        acc = e.loop(segments, [(a, a_segment), (b, b_segment)], start, one_segment)
        for m in range(rows):
            for j in rest:
                e.store(acc[vectors * m + j], to[m], j * BYTES)

    product.__name__ = f"transposed_product_{rows}_{vectors}"
    return kernel(product)


transposed_product = _transposed_product(ROWS_T, 2)
transposed_product_narrow = _transposed_product(ROWS_T, 1)
# The tile for very few channels (rows of C) has one row and more vectors.
WIDE = 4
transposed_product_wide = _transposed_product(1, WIDE)


# --- dots: for too few output channels to fill a vector -------------------------------------------

DOTS = 4


@kernel
def dots(e: Emitter, a, segments, a_segment, vectors, a_row, b, out) -> None:
    """out[m] = sum over s, v of A[m, s, v] . B[s, v] for m < DOTS; vectors run along the window."""

    def one_segment(at, carried):
        def one_vector(inner, acc):
            pa, pb = inner
            w = e.load(pb)
            return [e.fma(e.load(pa, _times(e, a_row, m)), w, acc[m]) for m in range(DOTS)]

        pb, *acc = carried
        acc = e.loop(vectors, [(at[0], BYTES), (pb, BYTES)], acc, one_vector)
        return [e.offset(pb, _times(e, vectors, BYTES)), *acc]

    _, *acc = e.loop(segments, [(a, a_segment)], [b, *[e.const(0)] * DOTS], one_segment)
    for m in range(DOTS):
        e.store_one(e.across(e.add, acc[m]), out, 4 * m)
