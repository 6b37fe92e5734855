"""Matrix products of a warp in the emulator: layouts, sums, and their wrong use (ptx.cuh)."""

import math
from fractions import Fraction
from functools import cache

import numpy as np
import pytest
from cuda_checks import ORDERS, check, draw, needs_compiler
from roundings import NARROW, cut_to_tf32, to_bfloat16, to_half, to_tf32

from minddpm.kernels.emulator import EmulatorError, Library, device_array, device_empty

pytestmark = needs_compiler

# Each lane's registers are in memory: a [32, A_COUNT] and b [32, B_COUNT] of 32 bits, c [32, 4].
PRODUCT = """
extern "C" __global__ void run_NAME(const unsigned* a, const unsigned* b, float* c) {
    int lane = threadIdx.x;
    unsigned left[A_COUNT], right[B_COUNT];
    float sums[4];
    for (int i = 0; i < A_COUNT; i++) left[i] = a[A_COUNT * lane + i];
    for (int i = 0; i < B_COUNT; i++) right[i] = b[B_COUNT * lane + i];
    for (int i = 0; i < 4; i++) sums[i] = c[4 * lane + i];
    NAME(sums, left, right);
    for (int i = 0; i < 4; i++) c[4 * lane + i] = sums[i];
}
"""
HEAD = '#include "ptx.cuh"\n'
BITS = {"f16": NARROW["half"], "bf16": NARROW["bf16"], "tf32": lambda x: x}
# The place of a lane's i-th number, as in the PTX ISA; g = lane / 4, t = lane % 4. A register has
# two numbers of 16 bits.
PLACES = {  # instruction: (rows and columns of a, of b)
    "mma_m16n8k16_f16": (
        lambda g, t, i: (g if i < 2 or 4 <= i < 6 else g + 8, t * 2 + i % 2 + 8 * (i >= 4)),
        lambda g, t, i: (t * 2 + i % 2 + 8 * (i >= 2), g),
    ),
    "mma_m16n8k8_f16": (
        lambda g, t, i: (g if i < 2 else g + 8, t * 2 + i % 2),
        lambda g, t, i: (t * 2 + i % 2, g),
    ),
    "mma_m16n8k8_tf32": (
        lambda g, t, i: (g if i in (0, 2) else g + 8, t if i in (0, 1) else t + 4),
        lambda g, t, i: (t + 4 * i, g),
    ),
}
PLACES["mma_m16n8k16_bf16"] = PLACES["mma_m16n8k16_f16"]
SINCE_80 = "mma_m16n8k16_bf16", "mma_m16n8k8_tf32"


def sizes(name):
    """Return the format, the depth, and the registers of a."""
    shape, kind = name.removeprefix("mma_m16n8k").split("_")
    return kind, int(shape), 2 if name == "mma_m16n8k8_f16" else 4


def place_of_a_sum(g, t, i):
    return g if i < 2 else g + 8, t * 2 + i % 2


@cache
def products(architecture=80):
    source = f"#undef __CUDA_ARCH__\n#define __CUDA_ARCH__ {architecture}0\n{HEAD}"
    for name in PLACES:
        if architecture >= 80 or name not in SINCE_80:
            count = sizes(name)[2]
            kernel = PRODUCT.replace("A_COUNT", str(count)).replace("B_COUNT", str(count // 2))
            source += kernel.replace("NAME", name)
    return Library(source)


def places(place, count):
    """Return the rows and the columns of all lanes' numbers, [32, count] each."""
    both = [[place(lane // 4, lane % 4, i) for i in range(count)] for lane in range(32)]
    return tuple(np.moveaxis(np.array(both), 2, 0))


def multiplied(name, a, b, c, order=0, architecture=80):
    """Return c + a b by an instruction, the matrices distributed over the lanes."""
    kind, _, registers = sizes(name)
    in_register = 1 if kind == "tf32" else 2
    rows = places(PLACES[name][0], registers * in_register)
    columns = places(PLACES[name][1], registers // 2 * in_register)
    fragments = [
        device_array(np.ascontiguousarray(BITS[kind](x)[at]).view(np.uint32))
        for x, at in ((a, rows), (b, columns))
    ]
    at = places(place_of_a_sum, 4)
    sums = device_array(np.ascontiguousarray(c[at]))
    products(architecture).launch(f"run_{name}", (1,), (32,), (*fragments, sums), order=order)
    result = np.empty_like(c)
    result[at] = sums
    return result


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("name", "rounding"),
    [
        ("mma_m16n8k16_f16", to_half), ("mma_m16n8k16_bf16", to_bfloat16),
        ("mma_m16n8k8_tf32", to_tf32), ("mma_m16n8k8_tf32", cut_to_tf32),
        ("mma_m16n8k8_f16", to_half),
    ],
)  # fmt: skip
def test_products_of_matrices(name, rounding, order):
    """TF32's lowest 13 bits are not read."""
    depth = sizes(name)[1]
    a, b, c = draw(order, (16, depth), (depth, 8), (16, 8))
    exact = rounding(a).astype(float) @ rounding(b) + c
    if rounding is to_tf32:
        a, b = to_tf32(a), to_tf32(b)
    check(multiplied(name, a, b, c, order), exact, 1e-6)


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


@pytest.mark.parametrize(("architecture", "group", "extra"), [(75, 4, 0), (80, 8, 1), (90, 16, 2)])
@pytest.mark.parametrize("name", ["mma_m16n8k16_f16", "mma_m16n8k8_f16", "mma_m16n8k8_tf32"])
def test_sums_are_cut_as_on_each_generation(name, architecture, group, extra):
    kind, depth, _ = sizes(name)
    if architecture < 80 and name in SINCE_80:
        return
    group = group // (1 + (kind == "tf32"))
    a, b, c = draw(architecture, (16, depth), (depth, 8), (16, 8))
    a, b = (to_half(x * np.float32(2.0) ** (i - 3)) for i, x in enumerate((a, b)))
    c[0], c[1], a[2] = 0, 1e5 * c[1], 0
    result = multiplied(name, a, b, c, architecture=architecture)
    wanted = [
        [one_by_one(float(c[i, j]), *(x.tolist() for x in (a[i], b[:, j])), group, extra)
         for j in range(8)] for i in range(16)
    ]  # fmt: skip
    np.testing.assert_array_equal(result, np.float32(wanted))


@pytest.mark.parametrize(("architecture", "sum_"), [(75, 1), (80, 1 + 2.0**-22)])
def test_small_products_are_lost_without_an_additional_bit(architecture, sum_):
    """1 + 4 times 2^-24: each of the four lies below the last bit of the sum."""
    a, b = np.zeros((16, 16), np.float32), np.zeros((16, 8), np.float32)
    a[:, :4], b[:4] = 2.0**-12, 2.0**-12
    result = multiplied("mma_m16n8k16_f16", a, b, np.ones((16, 8), np.float32), 0, architecture)
    assert (result == np.float32(sum_)).all()


# --- loads of matrices ---------------------------------------------------------------------------

LOADS = """
extern "C" __global__ void load(const unsigned short* x, unsigned* y, int transposed) {
    __shared__ __align__(16) unsigned short rows[32][SPACE];
    for (int i = 0; i < 8; i++) rows[threadIdx.x][i] = x[8 * threadIdx.x + i];
    __syncwarp();
    unsigned to[4];
    if (transposed) ldmatrix_x4_trans(to, rows[threadIdx.x]);
    else ldmatrix_x4(to, rows[threadIdx.x]);
    for (int m = 0; m < 4; m++) y[4 * threadIdx.x + m] = to[m];
}
"""


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("transposed", [0, 1])
def test_loads_of_matrices(transposed, order):
    """Register m of lane 4 g + t has numbers 2 t and 2 t + 1 of row g of matrix m."""
    x, y = np.arange(256, dtype=np.uint16).reshape(4, 8, 8), device_empty((32, 4), np.uint32)
    library = Library(HEAD + LOADS.replace("SPACE", "8"))
    library.launch("load", (1,), (32,), (device_array(x), y, np.int32(transposed)), order=order)
    found = np.array(y).view(np.uint16).reshape(8, 4, 4, 2)  # g, t, m, which of two
    matrices = x.transpose(0, 2, 1) if transposed else x
    np.testing.assert_array_equal(found.transpose(2, 0, 1, 3).reshape(4, 8, 8), matrices)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize(("space", "ways"), [(8, 1), (16, 2), (24, 1), (32, 4), (64, 8), (72, 1)])
def test_ways_of_a_bank_conflict(space, ways, transposed):
    """The rows of a matrix are served together: four passes without conflicts."""
    library = Library(HEAD + LOADS.replace("SPACE", str(space)), "loads.cu", "profile")
    x, y = np.zeros(256, np.uint16), device_empty((32, 4), np.uint32)
    library.launch("load", (1,), (32,), (device_array(x), y, np.int32(transposed)))
    (line,) = (line for line in library.profile() if (line.space, line.kind) == ("shared", "load"))
    assert (line.requests, line.bytes, line.transactions, line.ideal) == (1, 512, 4 * ways, 4)
    assert line.worst == ways


# --- wrong use -----------------------------------------------------------------------------------

WRONG = """
extern "C" __global__ void absent(const unsigned short* x, float* y) {
    float c[4] = {};
    unsigned a[4] = {}, b[2] = {};
    if (threadIdx.x < 31) mma_m16n8k16_f16(c, a, b);
}
extern "C" __global__ void diverged(const unsigned short* x, float* y) {
    float c[4] = {};
    unsigned a[4] = {}, b[2] = {};
    if (threadIdx.x < 16) mma_m16n8k16_f16(c, a, b);
    else
        mma_m16n8k16_f16(c, a, b);
}
extern "C" __global__ void absent_from_a_load(const unsigned short* x, float* y) {
    __shared__ __align__(16) unsigned short tile[256];
    unsigned to[4];
    if (threadIdx.x != 9) ldmatrix_x4(to, tile + 8 * threadIdx.x);
}
extern "C" __global__ void misaligned(const unsigned short* x, float* y) {
    __shared__ __align__(16) unsigned short tile[260];
    unsigned to[4];
    ldmatrix_x4_trans(to, tile + 8 * threadIdx.x + 4 * (threadIdx.x == 5));
}
extern "C" __global__ void undeclared(const unsigned short* x, float* y) {
    __shared__ unsigned char before[8], tile[520];
    unsigned to[4];
    ldmatrix_x4(to, tile + 8 + 16 * threadIdx.x);
}
extern "C" __global__ void in_global_memory(const unsigned short* x, float* y) {
    unsigned to[4];
    ldmatrix_x4(to, x + 8 * threadIdx.x);
}
extern "C" __global__ void too_early(const unsigned short* x, float* y) {
    __shared__ __align__(16) unsigned short tile[256];
    for (int i = 0; i < 8; i++) tile[8 * threadIdx.x + i] = x[8 * threadIdx.x + i];
    unsigned to[4];
    ldmatrix_x4(to, tile + 8 * (31 - threadIdx.x));
    y[threadIdx.x] = to[0];
}
extern "C" __global__ void beyond(const unsigned short* x, float* y) {
    __shared__ __align__(16) unsigned short tile[256];
    for (int i = 0; i < 8; i++) tile[8 * threadIdx.x + i] = x[8 * threadIdx.x + i];
    __syncwarp();
    unsigned to[4];
    ldmatrix_x4(to, tile + 8 + 8 * threadIdx.x);
    y[threadIdx.x] = to[0];
}
"""


def run_wrong(name, mode="plain"):
    x, y = device_array(np.ones(512, np.uint16)), device_empty(260)
    Library(HEAD + WRONG, "wrong.cu", mode).launch(name, (1,), (32,), (x, y))
    return y


def line_of(name, text):
    lines = (HEAD + WRONG).splitlines()
    first = next(i for i, line in enumerate(lines) if f" {name}(" in line)
    return next(i for i, line in enumerate(lines, 1) if i > first and text in line)


@pytest.mark.parametrize(
    ("name", "at", "message"),
    [
        ("absent", "mma_", "of which only 7fffffff come"),
        ("diverged", "        mma_", "while others wait for it at line"),
        ("absent_from_a_load", "ldmatrix", "of which only fffffdff come"),
        ("misaligned", "ldmatrix", "a row that does not begin at a multiple of 16 bytes"),
        ("undeclared", "ldmatrix", "a row that does not begin at a multiple of 16 bytes"),
        ("in_global_memory", "ldmatrix", "a row of a matrix that is not in shared memory"),
    ],
)
def test_wrong_use_is_reported(name, at, message):
    with pytest.raises(EmulatorError, match=rf"{name}: line {line_of(name, at)}: .*{message}"):
        run_wrong(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("too_early", r"race: .* 2 bytes at \d+ of tile, which wrong.cu:LINE: .* read: no barrier"),
        ("beyond", r"out of bounds: wrong.cu:LINE: .* reads 16 bytes at 512 of tile, which has"),
    ],
)
def test_race_mode_checks_the_rows_of_matrices(name, message):
    with pytest.raises(EmulatorError, match=message.replace("LINE", str(line_of(name, "ldmat")))):
        run_wrong(name, "race")
