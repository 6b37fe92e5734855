"""Half and tensor cores in the emulator, and the rung of the convolution that uses them."""

import shutil
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minddpm.kernels import reference
from minddpm.kernels.cuda.convolution import Sizes
from minddpm.kernels.cuda.launch import FOLDER
from minddpm.kernels.emulator import EmulatorError, Library, device_array, device_empty

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
ORDERS = (0, 1, 2)
NULL = np.uint64(0)


def to_half(x):
    with np.errstate(over="ignore"):
        return x.astype(np.float16).astype(np.float32)


def to_tf32(x):
    """To 11 binary digits, ties away from zero."""
    return ((x.view(np.uint32) + np.uint32(1 << 12)) & ~np.uint32((1 << 13) - 1)).view(np.float32)


def to_bfloat16(x):
    """To 8 binary digits, ties to even: of finite numbers."""
    bits = x.view(np.uint32)
    return (bits + 0x7FFF + (bits >> 16 & 1) & ~np.uint32(0xFFFF)).view(np.float32)


def cut_to_tf32(x):
    return (x.view(np.uint32) & ~np.uint32((1 << 13) - 1)).view(np.float32)


def draw(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape, np.float32) for shape in shapes]


def check(result, expected, tolerance=1e-5):
    assert result.shape == expected.shape
    assert np.abs(result - expected).max(initial=0) <= tolerance * max(1.0, np.abs(expected).max())


# --- half ----------------------------------------------------------------------------------------

HALF = """#include <cuda_fp16.h>
extern "C" __global__ void widen(const half* x, float* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = __half2float(x[i]);
}
extern "C" __global__ void narrow(const float* x, half* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = __float2half(x[i]);
}
extern "C" __global__ void arithmetic(const half* a, const half* b, half* out, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
        out[i] = a[i] + b[i];
        out[n + i] = a[i] - b[i];
        out[2 * n + i] = a[i] * b[i];
        out[3 * n + i] = a[i] / b[i];
    }
}
extern "C" __global__ void two(const float* x, float* y) {
    int i = 2 * threadIdx.x;
    half2 v = __floats2half2_rn(x[i], x[i + 1]);
    float2 result = __half22float2(v * v + v - __halves2half2(v.y, v.x));
    y[i] = result.x, y[i + 1] = result.y;
}
extern "C" __global__ void unwritten(float* y) {
    __shared__ half memory[64];
    y[threadIdx.x] = memory[threadIdx.x];
}
"""

EVERY_HALF = np.arange(1 << 16).astype(np.uint16).view(np.float16)


@cache
def half_library():
    return Library(HALF)


def run(name, *arguments, threads=32):
    half_library().launch(name, (1,), (threads,), arguments)


def test_every_half_as_float():
    y = device_empty(1 << 16)
    run("widen", device_array(EVERY_HALF), y, np.int32(y.size))
    np.testing.assert_array_equal(y, EVERY_HALF.astype(np.float32))
    np.testing.assert_array_equal(np.signbit(y), np.signbit(EVERY_HALF))  # of -0 as well


def test_rounding_to_half():
    """Where it must change between each half and the next, and the floats on both sides of that."""
    halves = EVERY_HALF[:0x7C01].astype(np.float32)
    halves[-1] = 65536  # what comes after 65504 as if there were no infinity
    ties = (halves[1:] + halves[:-1]) / 2
    x = np.concatenate([halves, ties, np.nextafter(ties, 0), np.nextafter(ties, 1e9)])
    more = [1e-30, 1e-45, 3e38, np.inf, np.nan]
    x = np.concatenate([x, np.array(more, np.float32)])
    x = np.concatenate([x, -x])
    y = device_empty(x.shape, np.float16)
    run("narrow", device_array(x), y, np.int32(x.size))
    expected = to_half(x)
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(np.signbit(y)[x == x], np.signbit(x)[x == x])


def test_arithmetic_of_halves_is_rounded_to_half():
    rng = np.random.default_rng(0)
    a, b = (rng.permutation(EVERY_HALF[np.isfinite(EVERY_HALF)]) for _ in range(2))
    out = device_empty((4, a.size), np.float16)
    run("arithmetic", device_array(a), device_array(b), out, np.int32(a.size))
    with np.errstate(all="ignore"):
        exact = [f(a.astype(float), b.astype(float)) for f in (np.add, np.subtract, np.multiply)]
        expected = np.stack([*exact, a.astype(float) / b]).astype(np.float16)
    np.testing.assert_array_equal(out, expected)


def test_vectors_of_halves():
    (x,) = draw(0, 64)
    y = device_empty(64)
    run("two", device_array(x), y)
    v = x.astype(np.float16)
    expected = v * v + v - v.reshape(-1, 2)[:, ::-1].reshape(-1)
    np.testing.assert_array_equal(y, expected.astype(np.float32))


def test_a_half_that_nobody_wrote_is_nan():
    assert np.isnan(device_empty(7, np.float16)).all()
    y = device_empty(64)
    run("unwritten", y, threads=64)
    assert np.isnan(y).all()


def test_half_is_unknown_without_its_header():
    with pytest.raises(RuntimeError, match="half"):
        Library('extern "C" __global__ void f(half* x) {}')


# --- bfloat16 ------------------------------------------------------------------------------------

BFLOAT16 = """#include <cuda_bf16.h>
extern "C" __global__ void widen(const __nv_bfloat16* x, float* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = __bfloat162float(x[i]);
}
extern "C" __global__ void narrow(const float* x, __nv_bfloat16* y, int n) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) y[i] = __float2bfloat16(x[i]);
}
"""


def test_bfloat16():
    """Every one as a float; and rounded where it must change between each and the next."""
    library, bits = Library(BFLOAT16), np.arange(1 << 16).astype(np.uint16)
    widened = device_empty(bits.size)
    library.launch("widen", (1,), (32,), (device_array(bits), widened, np.int32(bits.size)))
    np.testing.assert_array_equal(widened.view(np.uint32), bits.astype(np.uint32) << 16)

    finite = np.array(widened[:0x7F80]).astype(float)  # what comes before infinity
    ties = (finite[1:] + finite[:-1]) / 2
    even = np.where(bits[: ties.size] % 2, finite[1:], finite[:-1])
    tied = ties.astype(np.float32)
    assert (tied == ties).all()
    below, above = (np.nextafter(tied, np.float32(to)) for to in (0, 9e37))
    x = np.concatenate([tied, below, above])
    nearer = np.where(tied < 9e37, finite[1:], finite[:-1])
    expected = np.concatenate([even, finite[:-1], nearer]).astype(np.float32)
    special = np.array([np.finfo(np.float32).max, np.inf, np.nan], np.float32)
    x, expected = (np.concatenate([y, -y]) for y in (
        np.concatenate([x, special]), np.concatenate([expected, [np.inf, np.inf, np.nan]])
    ))  # fmt: skip
    rounded = device_empty(x.shape, np.uint16)
    library.launch("narrow", (1,), (32,), (device_array(x), rounded, np.int32(x.size)))
    back = (np.array(rounded).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(back, expected)
    np.testing.assert_array_equal(np.signbit(back)[x == x], np.signbit(x)[x == x])


# --- fragments -----------------------------------------------------------------------------------

# c [16, 20] = a b + 2 c; rows of a and b, or columns, lie 24 apart.
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


def bits_of_bfloat16(x):
    return (to_bfloat16(x).view(np.uint32) >> 16).astype(np.uint16)


NARROW = {"half": lambda x: x.astype(np.float16), "bf16": bits_of_bfloat16}


@cache
def products():
    source = HEAD
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
    """As it lies in memory, rows or columns `step` apart, nothing between them."""
    rows = matrix if layout == "row" else matrix.T
    nan = 0x7FFF if matrix.dtype == np.uint16 else np.nan  # of bfloat16
    memory = np.full((len(rows), step), nan, matrix.dtype)
    memory[:, : rows.shape[1]] = rows
    return memory


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("kind", "rounded", "seen"),
    [
        ("half", 0, to_half), ("bf16", 0, to_bfloat16),
        ("tf32", 1, to_tf32), ("tf32", 0, cut_to_tf32),
    ],
)  # fmt: skip
def test_products_of_matrices(kind, rounded, seen, layout, order):
    depth = DEPTHS[kind]
    a, b, c = draw(order, (16, depth), (depth, 16), (16, 16))
    exact = seen(a).astype(float) @ seen(b) + 2 * c
    if kind in NARROW:
        a, b = NARROW[kind](a), NARROW[kind](b)
    how = layout.split()
    result = device_array(stored(c, how[2], 20))
    arrays = (device_array(stored(x, how, 24)) for x, how in zip((a, b), how, strict=False))
    name = f"{kind}_{'_'.join(how)}"
    products().launch(name, (1,), (32,), (*arrays, result, np.int32(rounded)), order=order)
    lines = result[:, :16] if how[2] == "row" else result[:, :16].T
    check(lines, exact, 1e-6)
    assert np.isnan(result[:, 16:]).all()  # nothing was written between


def test_rounding_to_tf32():
    halfway, digit = np.float32(1 + 2.0**-11), np.float32(2.0**-10)
    below, most = np.nextafter(halfway, np.float32(0)), np.finfo(np.float32).max
    special = [most, np.inf, -halfway, 2.0**-149, np.nan]
    x = np.array([halfway, below, halfway + digit, *special], np.float32)
    expected = np.array([1 + digit, 1, 1 + 2 * digit, np.inf, np.inf, -1 - digit, 0, np.nan])
    y = device_array(x)
    Library(
        HEAD + 'extern "C" __global__ void f(float* x) { x[threadIdx.x] = '
        "__float_to_tf32(x[threadIdx.x]); }"
    ).launch("f", (1,), (8,), (y,))
    np.testing.assert_array_equal(y, expected)


# What every lane has in x, and three guesses at which element of the result that is.
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


def test_a_fragment_has_all_elements_and_those_of_half_in_two_lanes():
    out = shown("a_half", np.float16, 256, 16)
    assert (np.bincount(out.ravel()) == 2).all()
    assert all(len(set(row)) == 16 for row in out)
    np.testing.assert_array_equal(np.sort(shown("b_tf32", np.float32, 128, 4).ravel()), range(128))


def test_every_kind_of_fragment_has_a_layout_of_its_own():
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
        ("misaligned", "load_matrix", "begins at no multiple of 32 bytes"),
        ("misaligned_store", "store_matrix", "begins at no multiple of 32 bytes"),
        ("undeclared", "store_matrix", "begins at no multiple of 32 bytes"),
        ("uneven", "load_matrix", "whose ldm is no multiple of 16 bytes"),
        ("different", "load_matrix", "another matrix than the first lane"),
        ("contradictory", "mma_sync", "two lanes have one element, not one value"),
    ],
)
def test_what_a_gpu_would_not_do_or_not_say(name, at, message):
    with pytest.raises(EmulatorError, match=rf"{name}: line {line_of(name, at)}: .*{message}"):
        run_wrong(name)


def test_sums_that_nobody_filled_are_nan():
    assert np.isnan(run_wrong("unfilled")[:256]).all()


def test_a_stored_matrix_that_is_read_too_early():
    assert np.isnan(run_wrong("too_early")).any()


# --- conv6_tensor.cu -----------------------------------------------------------------------------

ROUNDING = {"half": to_half, "BF16": to_bfloat16, "TF32": to_tf32}


@cache
def conv6(*defines):
    file = FOLDER / "conv6_tensor.cu"
    defines = "".join(f"#define {name}\n" for name in defines)
    return Library(f"{defines}#line 1\n{file.read_text()}", file)


def launch(precision, name, sizes, rows, columns, *arguments, order=0):
    """With the sizes of a convolution (Sizes) as the last arguments."""
    grid = (-(-rows // 64), -(-columns // 64))
    vector = int(sizes.C % 4 == sizes.K % 4 == 0)
    arguments = (*arguments, *map(np.int32, (*sizes, vector)))
    defines = [define for define in precision.split() if define != "half"]
    conv6(*defines).launch(name, grid, (128,), arguments, order=order)


@pytest.mark.parametrize("precision", ROUNDING)
@settings(max_examples=20, deadline=None)
@given(
    N=st.integers(1, 2), H=st.sampled_from([1, 7, 14, 33]), W=st.sampled_from([1, 7, 14]),
    C=st.sampled_from([1, 3, 17, 20, 66]), K=st.sampled_from([1, 3, 8, 17, 66]),
    KH=st.sampled_from([1, 3]), KW=st.sampled_from([1, 2, 3]), stride=st.sampled_from([1, 2, 3]),
    pad=st.tuples(*[st.integers(0, 2)] * 4), with_bias=st.booleans(), order=st.integers(0, 2),
)  # fmt: skip
def test_conv2d(precision, N, H, W, C, K, KH, KW, stride, pad, with_bias, order):
    """Against float64 with the inputs rounded as the tensor cores see them."""
    padding = (pad[:2], pad[2:])
    if H + sum(padding[0]) < KH or W + sum(padding[1]) < KW:
        return
    x, w, b = draw(0, (N, H, W, C), (KH, KW, C, K), K)
    seen = ROUNDING[precision]
    exact = seen(x).astype(float), seen(w).astype(float)
    expected = reference.conv2d(*exact, b if with_bias else None, stride, padding)
    (gy,) = draw(1, expected.shape)
    gradients = reference.conv2d_backward(seen(gy).astype(float), *exact, stride, padding)

    s = Sizes.of((x,), w.shape, stride, padding)
    image, weights, gradient = map(device_array, (x, w, gy))
    whole = (image, NULL, np.int32(C), np.int32(0))
    y, gx, gw = map(device_empty, (expected.shape, x.shape, w.shape))
    more = (device_array(b) if with_bias else NULL, NULL, NULL)
    launch(precision, "conv2d", s, s.pixels, K, *whole, weights, *more, y, order=order)
    check(y, expected)
    backward = (gradient, weights, NULL, NULL, NULL, gx, NULL, np.int32(C), np.int32(0))
    launch(precision, "conv2d_gradient_x", s, N * H * W, C, *backward, order=order)
    check(gx, gradients[0])
    launch(precision, "conv2d_gradient_w", s, s.window, K, gradient, *whole, gw, order=order)
    check(gw, gradients[1])


@pytest.mark.parametrize("precision", ROUNDING)
def test_the_range_of_the_inputs(precision):
    x = np.array([1e5, 65504, 1e-5, 1e-8], np.float32)
    image, one, y = device_array(x), device_array(np.ones(1, np.float32)), device_empty(4)
    s = Sizes.linear((x.reshape(4, 1),), (1, 1))
    whole = (image, NULL, np.int32(1), np.int32(0))
    launch(precision, "conv2d", s, 4, 1, *whole, one, NULL, NULL, NULL, y)
    np.testing.assert_array_equal(y, ROUNDING[precision](x))


@pytest.mark.parametrize(
    ("precision", "narrow"), [("half", NARROW["half"]), ("BF16", NARROW["bf16"])]
)
@pytest.mark.parametrize("C", [20, 17])  # by fours, and one by one
@pytest.mark.parametrize("parts", [1, 2])
def test_x_may_come_as_the_cores_read_it(precision, narrow, C, parts):
    """No bit changes, and half the bytes are read."""
    K, C1 = 12, C if parts == 1 else 8
    x, w, gy = draw(0, (2, 7, 5, C), (3, 3, C, K), (2, 7, 5, K))
    s = Sizes.of((x,), w.shape, 1, ((1, 1), (1, 1)))
    weights, gradient, results = device_array(w), device_array(gy), []
    for how, stored in ((precision, lambda x: x), (f"{precision} STORED", narrow)):
        pair = [device_array(stored(np.ascontiguousarray(x))) for x in np.split(x, [C1], axis=3)]
        whole = (pair[0], pair[1] if parts == 2 else NULL, np.int32(C1), np.int32(0))
        y, gw = device_empty(gy.shape), device_empty(w.shape)
        launch(how, "conv2d", s, s.pixels, K, *whole, weights, NULL, NULL, NULL, y)
        launch(how, "conv2d_gradient_w", s, s.window, K, gradient, *whole, gw)
        results.append((y, gw))
    for float32, stored in zip(*results, strict=True):
        np.testing.assert_array_equal(stored, float32)
