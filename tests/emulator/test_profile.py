"""Profile mode of the CUDA emulator: its counts, and bounds on the cost of each rung."""

import platform
from collections import Counter

import numpy as np
import pytest
from cuda_checks import ORDERS, draw, needs_compiler
from emulated import excess

from minddpm.errors import InputError
from minddpm.kernels.cuda import ladder
from minddpm.kernels.emulator import Library, cupy_on_cpu, device_array, device_empty
from minddpm.kernels.emulator.cupy_on_cpu.cuda import profiling
from minddpm.kernels.emulator.profile import Line, global_bytes, table, totals

pytestmark = needs_compiler

needs_x86 = pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64"), reason="disassembles x86-64 code"
)

IMAGES = (2, 14, 14, 32)

# --- the ladder ----------------------------------------------------------------------------------


@pytest.fixture
def profiled(stand_in):
    """Profiles the forward pass of a rung: 3 x 3, 2 images of 14 x 14, 32 to 32 channels."""

    def run(rung: ladder.Rung, stored: str = "float32") -> tuple[list[Line], Counter]:
        x, w, b, y = map(cupy_on_cpu.asarray, draw(0, IMAGES, (3, 3, 32, 32), 32, IMAGES))
        sizes = ladder.Sizes.of((x,), w.shape, 1, ((1, 1), (1, 1)))
        with profiling() as costs:
            ladder.forward(sizes, (x.astype(stored),), w, b, y, rung=rung)
        return costs

    return run


@pytest.fixture
def forward(profiled):
    """Returns the lines of the forward pass of a rung."""
    return lambda *arguments: profiled(*arguments)[0]


def test_the_naive_convolution_wastes_much(forward):
    assert excess(forward(ladder.RUNGS["1 naive"]), "global", "load") > 5
    assert excess(forward(ladder.RUNGS["2 coalesced"]), "global", "load") < 1.1


def test_each_rung_reads_less_than_the_one_before(forward):
    names = "1 naive", "2 coalesced", "3 shared tile", "4 register tile"
    rungs = [ladder.RUNGS[name] for name in names]
    read = [global_bytes(forward(rung))["conv2d"][0] for rung in rungs]
    assert read == sorted(read, reverse=True)
    assert read[0] > 100 * read[-1]


def test_half_reads_half_the_bytes_of_the_images(forward):
    half = ladder.RUNGS["6 tensor cores, half"]
    read = [global_bytes(forward(half, dtype))["conv2d"][0] for dtype in ("float32", "float16")]
    pixels = 2 * (3 * 14 - 2) ** 2  # of all windows, without those outside the image
    assert read[0] - read[1] == pixels * 32 * 2  # half of 4 bytes


# --- counts --------------------------------------------------------------------------------------

KERNELS = """
extern "C" __global__ void strided(const float* x, float* y, int stride, int shift) {
    y[threadIdx.x] = x[threadIdx.x * stride + shift];
}
extern "C" __global__ void vectors(const float* x, float* y, int stride) {
    __shared__ float4 copy[64];
    copy[threadIdx.x * stride] = ((const float4*)x)[threadIdx.x];
    __syncthreads();
    ((float4*)y)[threadIdx.x] = copy[threadIdx.x * stride];
}
extern "C" __global__ void banks(float* y, int stride) {
    __shared__ float values[33 * 32];
    values[threadIdx.x * stride] = 1;
    __syncthreads();
    float sum = 0;
    for (int i = 0; i < 10; i++) sum += values[threadIdx.x * stride];
    y[threadIdx.x] = sum;
}
extern "C" __global__ void doubles(double* y) {
    __shared__ double values[32];
    values[threadIdx.x] = 1;
    y[threadIdx.x] = values[threadIdx.x];
}
extern "C" __global__ void branches(int* counts, const int* x) {
    if (threadIdx.x < 3) atomicAdd(counts, x[threadIdx.x]);
    for (int i = threadIdx.x; i < 64; i += 32) counts[1 + i] = 0;
}
extern "C" __global__ void pairs(float* y, int distance) {
    __shared__ float4 copy[32];
    copy[threadIdx.x] = make_float4(0, 0, 0, 0);
    __syncthreads();
    int i = threadIdx.x / (2 * distance) * distance + threadIdx.x % distance;
    ((float4*)y)[threadIdx.x] = copy[i];
}
"""


def profile(name: str, *arguments, order: int = 0, grid: int = 1) -> dict[tuple[str, str], Line]:
    """Return the lines of a kernel by space and kind, of which it has one each."""
    library = Library(KERNELS, "kernels.cu", mode="profile")
    library.launch(name, (grid,), (32,), arguments, order=order)
    return {(line.space, line.kind): line for line in library.profile()}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("stride", "shift", "sectors", "ideal"),
    [(1, 0, 4, 4), (1, 1, 5, 4), (2, 0, 8, 4), (8, 0, 32, 4), (0, 3, 1, 1)],
)
def test_sectors_of_a_request(stride, shift, sectors, ideal, order):
    x, y = device_array(np.zeros(264, "f")), device_empty(32)
    lines = profile("strided", x, y, np.int32(stride), np.int32(shift), order=order, grid=3)
    bytes_asked = 3 * (128 if stride else 4)
    assert lines["global", "load"][:10] == (
        "strided", "kernels.cu:3", "global", "load", 3, bytes_asked, 3 * sectors, 3 * ideal,
        sectors, 3 * 32,
    )  # fmt: skip
    assert global_bytes(lines.values()) == {"strided": (3 * 32 * sectors, 3 * 128)}


@pytest.mark.parametrize(
    ("stride", "ways"), [(1, 1), (0, 1), (2, 2), (4, 4), (16, 16), (32, 32), (33, 1)]
)
def test_ways_of_a_bank_conflict(stride, ways):
    line = profile("banks", device_empty(32), np.int32(stride))["shared", "load"]
    assert (line.requests, line.transactions, line.ideal, line.worst) == (10, 10 * ways, 10, ways)


def test_wide_accesses_take_several_passes():
    x, y = device_array(np.zeros(128, "f")), device_empty(128)
    lines = profile("vectors", x, y, np.int32(1))
    assert lines["global", "load"][4:9] == (1, 512, 16, 16, 16)
    assert lines["shared", "load"][4:9] == (1, 512, 4, 4, 1)
    assert profile("vectors", x, y, np.int32(2))["shared", "load"][4:9] == (1, 512, 8, 4, 2)
    assert profile("doubles", device_empty(32, "float64"))["shared", "store"][4:9] == (
        1, 256, 2, 2, 1,
    )  # fmt: skip


@pytest.mark.parametrize(("distance", "passes"), [(1, 2), (2, 2), (4, 4), (32, 4)])
def test_lanes_in_pairs_share_a_pass(distance, passes):
    """Lanes i and i ^ distance read the same 16 bytes."""
    line = profile("pairs", device_empty(128), np.int32(distance))["shared", "load"]
    assert (line.requests, line.transactions) == (1, passes)


@pytest.mark.parametrize("order", ORDERS)
def test_inactive_lanes(order):
    counts, x = device_array(np.zeros(65, np.int32)), device_array(np.ones(3, np.int32))
    lines = profile("branches", counts, x, order=order)
    assert lines["global", "atomic"][4:9] == (1, 4, 1, 1, 1)
    assert lines["global", "load"][4:9] == (1, 12, 1, 1, 1)
    assert lines["global", "store"][4:9] == (2, 256, 10, 8, 5)
    assert counts[0] == 3


COUNTED = """
extern "C" __global__ void one(const float* x, double* y, int n) {
    int i = threadIdx.x;
    if (i < n) y[i] = 2.0f * x[i] + 1;
    for (int j = 0; j < i; j++) y[i] -= x[j] / 3.0f;
}
struct Four { float4 v; __device__ Four operator*(float a) const {
    return {make_float4(a * v.x, a * v.y, a * v.z, a * v.w)}; } };
extern "C" __global__ void vectors(float* x) {
    float4* y = (float4*)x + threadIdx.x;
    *y = (Four{*y} * 2.0f).v;
}
extern "C" __global__ void none(int* y, const float* x) {
    y[threadIdx.x] = 3 * y[threadIdx.x] + (-x[threadIdx.x] > 1.0f ? 1 : 2);
}
extern "C" __global__ void sums(float* y) { atomicAdd(y, 1.0f); }
"""


@needs_x86
def test_operations_are_counted():
    library = Library(COUNTED, "counted.cu", mode="profile")
    x = device_array(np.ones(32, "f"))
    library.launch("one", (2,), (32,), (x, device_array(np.zeros(32)), np.int32(20)))
    library.launch("vectors", (1,), (8,), (x,))
    library.launch("none", (1,), (32,), (device_array(np.ones(32, np.int32)), x))
    library.launch("sums", (3,), (32,), (x,))
    expected = {"one": 2 * (2 * 20 + 2 * 31 * 16), "vectors": 8 * 4, "sums": 96}
    assert totals(library.operations()) == expected
    library.launch("vectors", (1,), (4,), (x,))
    assert library.operations() == {("vectors", "counted.cu:8"): 16}


@needs_x86
@pytest.mark.parametrize("rung", ["1 naive", "4 register tile", "6 tensor cores, half"])
def test_operations_of_a_rung(profiled, rung):
    """2 N OH OW K KH KW C by definition, plus what tiles compute beyond the edges."""
    _, operations = profiled(how := ladder.RUNGS[rung])
    pixels, window, K = 2 * 14 * 14, 9 * 32, 32
    rows, columns = (-(-n // size) * size for n, size in ((pixels, how.rows), (K, how.columns)))
    if rung == "1 naive":  # its threads beyond the edges compute nothing
        rows, columns = pixels, K
    expected = 2 * rows * columns * window + pixels * K  # with the bias
    assert totals(operations) == {"conv2d": expected}


def test_each_launch_is_reported_once():
    library = Library(KERNELS, "kernels.cu", mode="profile")
    for _ in range(2):
        library.launch("banks", (1,), (32,), (device_empty(32), np.int32(1)))
    text = table(library.profile(), library.operations()).splitlines()
    assert [line.split() for line in text[:-1]] == [
        ["place", "memory", "access", "requests", "per", "request", "ideal", "worst"],
        ["banks"],
        ["kernels.cu:13", "shared", "store", "2", "1.00", "1.00", "1"],
        ["kernels.cu:16", "shared", "load", "20", "1.00", "1.00", "1"],
        ["kernels.cu:17", "global", "store", "2", "4.00", "4.00", "4"],
    ]
    total = "banks: 640 operations, 0 bytes read, 256 written: 2.50 operations for a byte"
    assert text[-1] == total
    assert (library.profile(), library.operations()) == ([], {})


def test_profile_raises_in_other_modes():
    with pytest.raises(InputError, match=r'kernels.cu runs in mode plain: .* mode="profile"'):
        Library(KERNELS, "kernels.cu").profile()
