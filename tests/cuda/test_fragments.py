"""Fragments in the emulator: the small matrices that tensor cores multiply (nvcuda::wmma)."""

import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from cuda_checks import ORDERS, check, draw, needs_compiler
from roundings import NARROW, cut_to_tf32, to_bfloat16, to_half, to_tf32

from minddpm.kernels.emulator import EmulatorError, Library, device_array, device_empty

pytestmark = needs_compiler

# c [16, 20] = a b + 2 c; rows (or columns) of a and b are 24 numbers apart.
PRODUCT = """
extern "C" __global__ void NAME(const NUMBER* a, const NUMBER* b, float* c, int rounded) {
    fragment<matrix_a, 16, 16, DEPTH, KIND, A_major> left;
    fragment<matrix_b, 16, 16, DEPTH, KIND, B_major> right;
    fragment<accumulator, 16, 16, DEPTH, float> sums;
    load_matrix_sync(left, a, 24);
    load_matrix_sync(right, b, 24);
    load_matrix_sync(sums, c, 20, mem_C_major);
    if (rounded) {
        for (int i = 0; i < left.num_elements; i++) left.x[i] = __float_to_tf32(left.x[i]);
        for (int i = 0; i < right.num_elements; i++) right.x[i] = __float_to_tf32(right.x[i]);
    }
    for (int i = 0; i < sums.num_elements; i++) sums.x[i] *= 2;
    mma_sync(sums, left, right, sums);
    store_matrix_sync(c, sums, 20, mem_C_major);
}
"""
HEAD = "#include <mma.h>\nusing namespace nvcuda::wmma;\n"
LAYOUTS = ["row row row", "row row col", "row col row", "col row row", "col col col"]
DEPTHS = {"half": 16, "bf16": 16, "tf32": 8}
NUMBERS = {"half": "half", "bf16": "__nv_bfloat16", "tf32": "float"}


@cache
def products(defines=""):
    source = defines + HEAD
    for kind, depth in DEPTHS.items():
        for layout in LAYOUTS:
            a, b, c = layout.split()
            words = {
                "NAME": f"{kind}_{a}_{b}_{c}", "DEPTH": str(depth), "A_": f"{a}_", "B_": f"{b}_",
                "C_": f"{c}_", "NUMBER": NUMBERS[kind],
                "KIND": "precision::tf32" if kind == "tf32" else NUMBERS[kind],
            }  # fmt: skip
            kernel = PRODUCT
            for word, meaning in words.items():
                kernel = kernel.replace(word, meaning)
            source += kernel
    return Library(source)


def stored(matrix, layout, step):
    """Return the matrix as in memory: rows or columns `step` numbers apart, nan between them."""
    rows = matrix if layout == "row" else matrix.T
    nan = 0x7FFF if matrix.dtype == np.uint16 else np.nan  # a nan of bfloat16
    memory = np.full((len(rows), step), nan, matrix.dtype)
    memory[:, : rows.shape[1]] = rows
    return memory


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("kind", "rounded", "rounding"),
    [
        ("half", 0, to_half), ("bf16", 0, to_bfloat16),
        ("tf32", 1, to_tf32), ("tf32", 0, cut_to_tf32),
    ],
)  # fmt: skip
def test_products_of_matrices(kind, rounded, rounding, layout, order):
    depth = DEPTHS[kind]
    a, b, c = draw(order, (16, depth), (depth, 16), (16, 16))
    exact = rounding(a).astype(float) @ rounding(b) + 2 * c
    if kind in NARROW:
        a, b = NARROW[kind](a), NARROW[kind](b)
    how = layout.split()
    result = device_array(stored(c, how[2], 20))
    arrays = (device_array(stored(x, how, 24)) for x, how in zip((a, b), how, strict=False))
    name = f"{kind}_{'_'.join(how)}"
    products().launch(name, (1,), (32,), (*arrays, result, np.int32(rounded)), order=order)
    lines = result[:, :16] if how[2] == "row" else result[:, :16].T
    check(lines, exact, 1e-6)
    assert np.isnan(result[:, 16:]).all()  # nothing was written between the lines


def one_by_one(c, a, b, group, extra):
    """Return c + a . b as tensor cores add it, in exact fractions.

    In each step `group` products and c are cut to whole units of 2^-(23 + extra) times the power of
    two of the largest, and the result is rounded to float32 towards zero.
    """
    for start in range(0, len(a), group):
        pairs = list(zip(a[start : start + group], b[start : start + group], strict=True))
        powers = [power(x) + power(y) for x, y in pairs if x * y] + [power(c)] * bool(c)
        if powers:
            unit = Fraction(2) ** (max(powers) - 23 - extra)
            terms = [Fraction(c), *(Fraction(x) * Fraction(y) for x, y in pairs)]
            c = towards_zero(sum(int(term / unit) for term in terms) * unit)
    return c


def power(x):
    """Return the power of two of a number that is not denormal."""
    return math.frexp(x)[1] - 1


def towards_zero(x):
    near = np.float32(float(x))  # x has far fewer bits than a float64
    return float(np.nextafter(near, np.float32(0)) if abs(Fraction(float(near))) > abs(x) else near)


@pytest.mark.parametrize(("generation", "group", "extra"), [(70, 4, 0), (80, 8, 1), (90, 16, 2)])
@pytest.mark.parametrize("kind", ["half", "tf32"])
def test_sums_are_cut_as_on_each_generation(kind, generation, group, extra):
    depth, group = DEPTHS[kind], group // (1 + (kind == "tf32"))
    a, b, c = draw(generation, (16, depth), (depth, 16), (16, 16))
    a, b = (to_half(x * np.float32(2.0) ** (i - 3)) for i, x in enumerate((a, b)))
    c[0], c[1], a[2] = 0, 1e5 * c[1], 0
    result = device_array(stored(c, "row", 20))
    types = (NARROW["half"](x) if kind == "half" else x for x in (a, b))
    arrays = (device_array(stored(x, "row", 24)) for x in types)
    products(f"#define TENSOR_CORES {generation}\n").launch(
        f"{kind}_row_row_row", (1,), (32,), (*arrays, result, np.int32(0))
    )
    wanted = [
        [one_by_one(float(2 * c[i, j]), *(x.tolist() for x in (a[i], b[:, j])), group, extra)
         for j in range(16)] for i in range(16)
    ]  # fmt: skip
    np.testing.assert_array_equal(result[:, :16], np.float32(wanted))


@pytest.mark.parametrize(("generation", "sum_"), [(70, 1), (80, 1 + 2.0**-22)])
def test_small_products_are_lost_without_an_additional_bit(generation, sum_):
    """1 + 4 times 2^-24: each of the four lies below the last bit of the sum."""
    a, b, c = np.zeros((16, 16), np.float16), np.zeros((16, 16), np.float16), np.ones((16, 16))
    a[:, :4], b[:4] = 2.0**-12, 2.0**-12
    result = device_array(stored(np.float32(c / 2), "row", 20))
    arrays = (device_array(stored(x, "row", 24)) for x in (a, b))
    products(f"#define TENSOR_CORES {generation}\n").launch(
        "half_row_row_row", (1,), (32,), (*arrays, result, np.int32(0))
    )
    assert (result[:, :16] == np.float32(sum_)).all()


def test_rounding_to_tf32():
    halfway, last_bit = np.float32(1 + 2.0**-11), np.float32(2.0**-10)
    below, most = np.nextafter(halfway, np.float32(0)), np.finfo(np.float32).max
    special = [most, np.inf, -halfway, 2.0**-149, np.nan]
    x = np.array([halfway, below, halfway + last_bit, *special], np.float32)
    expected = np.array(
        [1 + last_bit, 1, 1 + 2 * last_bit, np.inf, np.inf, -1 - last_bit, 0, np.nan]
    )
    y = device_array(x)
    Library(
        HEAD + 'extern "C" __global__ void f(float* x) { x[threadIdx.x] = '
        "__float_to_tf32(x[threadIdx.x]); }"
    ).launch("f", (1,), (8,), (y,))
    np.testing.assert_array_equal(y, expected)


# Kernels that show the elements in each lane, and three guesses at their positions.
LANES = """
template <class F, class T> __device__ void show(const T* matrix, T* out) {
    F f;
    load_matrix_sync(f, matrix, 16);
    for (int i = 0; i < f.num_elements; i++) out[threadIdx.x * f.num_elements + i] = f.x[i];
}
extern "C" __global__ void a_half(const half* m, half* out) {
    show<fragment<matrix_a, 16, 16, 16, half, row_major>>(m, out);
}
extern "C" __global__ void b_half(const half* m, half* out) {
    show<fragment<matrix_b, 16, 16, 16, half, row_major>>(m, out);
}
extern "C" __global__ void a_half_by_columns(const half* m, half* out) {
    show<fragment<matrix_a, 16, 16, 16, half, col_major>>(m, out);
}
extern "C" __global__ void b_tf32(const float* m, float* out) {
    show<fragment<matrix_b, 16, 16, 8, precision::tf32, row_major>>(m, out);
}
extern "C" __global__ void guess(const float* m, float* in_turn, float* by_lane, float* as_mma) {
    fragment<accumulator, 16, 16, 16, float> f;
    load_matrix_sync(f, m, 16, mem_row_major);
    int lane = threadIdx.x;
    for (int i = 0; i < 8; i++) {
        in_turn[i * 32 + lane] = by_lane[lane * 8 + i] = f.x[i];
        // of the instruction mma.m16n8k16, whose layout PTX documents
        int row = lane / 4 + i / 2 % 2 * 8, column = lane % 4 * 2 + i % 2 + i / 4 * 8;
        as_mma[row * 16 + column] = f.x[i];
    }
}
"""


@cache
def lanes():
    return Library(HEAD + LANES)


def shown(name, dtype, size, each):
    out = device_empty((32, each), dtype)
    matrix = np.arange(size).astype(dtype)
    lanes().launch(name, (1,), (32,), (device_array(matrix), out))
    return out.astype(int)


def test_a_fragment_has_all_elements_and_half_has_each_in_two_lanes():
    out = shown("a_half", np.float16, 256, 16)
    assert (np.bincount(out.ravel()) == 2).all()
    assert all(len(set(row)) == 16 for row in out)
    np.testing.assert_array_equal(np.sort(shown("b_tf32", np.float32, 128, 4).ravel()), range(128))


def test_every_kind_of_fragment_has_its_own_layout():
    a, b, turned = (
        shown(n, np.float16, 256, 16) for n in ("a_half", "b_half", "a_half_by_columns")
    )
    turned = turned % 16 * 16 + turned // 16  # the same memory, read by columns
    for one, other in ((a, b), (a, turned), (b, turned)):
        assert (one == other).mean() < 0.1


def test_code_that_relies_on_a_layout_fails():
    matrix = np.arange(256, dtype=np.float32)
    guesses = [device_empty(256) for _ in range(3)]
    lanes().launch("guess", (1,), (32,), (device_array(matrix), *guesses))
    for guess in guesses:
        assert (guess == matrix).mean() < 0.1


WRONG = """
extern "C" __global__ void absent(const half* x, float* y) {
    fragment<matrix_a, 16, 16, 16, half, row_major> a;
    if (threadIdx.x != 9) load_matrix_sync(a, x, 16);
}
extern "C" __global__ void absent_in_product(const half* x, float* y) {
    fragment<matrix_a, 16, 16, 16, half, row_major> a;
    fragment<matrix_b, 16, 16, 16, half, row_major> b;
    fragment<accumulator, 16, 16, 16, float> c;
    fill_fragment(a, 1.0f), fill_fragment(b, 1.0f), fill_fragment(c, 0.0f);
    if (threadIdx.x < 31) mma_sync(c, a, b, c);
}
extern "C" __global__ void misaligned(const half* x, float* y) {
    fragment<matrix_a, 16, 16, 16, half, row_major> a;
    load_matrix_sync(a, x + 8, 16);
}
extern "C" __global__ void misaligned_store(const half* x, float* y) {
    fragment<accumulator, 16, 16, 16, float> c;
    store_matrix_sync(y + 4, c, 16, mem_row_major);
}
extern "C" __global__ void uneven(const half* x, float* y) {
    fragment<matrix_a, 16, 16, 16, half, row_major> a;
    load_matrix_sync(a, x, 20);
}
extern "C" __global__ void different(const half* x, float* y) {
    fragment<matrix_a, 16, 16, 16, half, row_major> a;
    load_matrix_sync(a, x + threadIdx.x / 16 * 16, 16);
}
extern "C" __global__ void undeclared(const half* x, float* y) {
    __shared__ float tile[256];
    fragment<accumulator, 16, 16, 16, float> c;
    store_matrix_sync(tile, c, 16, mem_row_major);
}
extern "C" __global__ void contradictory(const half* x, float* y) {
    fragment<matrix_a, 16, 16, 16, half, row_major> a;
    fragment<matrix_b, 16, 16, 16, half, row_major> b;
    fragment<accumulator, 16, 16, 16, float> c;
    load_matrix_sync(a, x, 16);
    a.x[3] = float(threadIdx.x);
    fill_fragment(b, 1.0f), fill_fragment(c, 0.0f);
    mma_sync(c, a, b, c);
}
extern "C" __global__ void unfilled(const half* x, float* y) {
    fragment<matrix_a, 16, 16, 16, half, row_major> a;
    fragment<matrix_b, 16, 16, 16, half, row_major> b;
    fragment<accumulator, 16, 16, 16, float> c;
    load_matrix_sync(a, x, 16);
    fill_fragment(b, 1.0f);
    mma_sync(c, a, b, c);
    store_matrix_sync(y, c, 16, mem_row_major);
}
extern "C" __global__ void too_early(const half* x, float* y) {
    __shared__ __align__(32) float tile[256];
    fragment<accumulator, 16, 16, 16, float> c;
    fill_fragment(c, 1.0f);
    store_matrix_sync(tile, c, 16, mem_row_major);
    for (int i = threadIdx.x; i < 256; i += 32) y[i] = tile[i];
}
"""


@cache
def wrong():
    return Library(HEAD + WRONG)


def run_wrong(name):
    x, y = device_array(np.ones(512, np.float16)), device_empty(260)
    wrong().launch(name, (1,), (32,), (x, y))
    return y


def line_of(name, text):
    lines = (HEAD + WRONG).splitlines()
    first = next(i for i, line in enumerate(lines) if f" {name}(" in line)
    return next(i for i, line in enumerate(lines, 1) if i > first and text in line)


@pytest.mark.parametrize(
    ("name", "at", "message"),
    [
        ("absent", "load_matrix", "of which only fffffdff come"),
        ("absent_in_product", "mma_sync", "of which only 7fffffff come"),
        ("misaligned", "load_matrix", "does not begin at a multiple of 32 bytes"),
        ("misaligned_store", "store_matrix", "does not begin at a multiple of 32 bytes"),
        ("undeclared", "store_matrix", "does not begin at a multiple of 32 bytes"),
        ("uneven", "load_matrix", "whose ldm is not a multiple of 16 bytes"),
        ("different", "load_matrix", "a different matrix than the first lane"),
        ("contradictory", "mma_sync", "two lanes hold different values of one element"),
    ],
)
def test_wrong_use_is_reported(name, at, message):
    with pytest.raises(EmulatorError, match=rf"{name}: line {line_of(name, at)}: .*{message}"):
        run_wrong(name)


def test_sums_that_were_not_filled_are_nan():
    assert np.isnan(run_wrong("unfilled")[:256]).all()


def test_a_stored_matrix_read_without_a_barrier_is_nan():
    assert np.isnan(run_wrong("too_early")).any()
