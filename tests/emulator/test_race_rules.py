"""Race mode's rules for order, bounds and alignment, each on a small kernel."""

import numpy as np
import pytest
from cuda_checks import ORDERS, needs_compiler
from emulated import THREAD

from minddpm.kernels.emulator import EmulatorError, Library, device_array, device_empty

pytestmark = needs_compiler

SMALL = """
extern "C" __global__ void histogram(const int* x, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) atomicAdd(counts + x[i], 1);
}
extern "C" __global__ void not_atomic(const int* x, int* counts, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) counts[x[i]] += 1;
}
extern "C" __global__ void half_atomic(const int* x, int* counts, int n) {
    if (threadIdx.x == 0) counts[3] = 0;
    if (threadIdx.x == 1) atomicMax(counts + 3, 5);
}
extern "C" __global__ void warp(const int* x, int* out, int how) {
    __shared__ int values[32];
    int lane = threadIdx.x, other = lane ^ 1;
    if (how == 6) __syncwarp();
    values[lane] = x[lane];
    if (how == 0) __syncwarp();
    if (how == 1) __shfl_sync(~0u, 1, 0);
    if (how == 2) __syncwarp(3u << (lane & ~1));
    if (how == 3) __syncwarp(lane < 16 ? 0xffffu : 0xffff0000u);
    if (how == 3) other = lane & 15;
    if (how == 4) {  // from the first half to all lanes by way of lane 0, which is in both masks
        if (lane < 16) __syncwarp(0xffffu);
        if (lane == 0 || lane >= 16) __syncwarp(0xffff0001u);
        other = lane & 15;
    }
    out[lane] = values[other];
}
extern "C" __global__ void message(int* flag, int* out, int how) {
    int b = blockIdx.x;
    if (b < 2) {
        if (how == 2) __threadfence();  // too early
        out[b] = b;
        if (how < 2 && b == 0) __threadfence();
        atomicAdd(flag, 1);
    } else {
        atomicAdd(flag, 1);
        __threadfence();
        out[b] = out[how == 1];
    }
}
extern "C" __global__ void vectors(const float* x, float* out, int first) {
    *(float4*)out = *(const float4*)(x + first);
}
struct Pair { float a, b; };
extern "C" __global__ void pairs(const float* x, float* out) {
    *(Pair*)(out + 1) = *(const Pair*)(x + 1);
    *(Pair*)(out + 3) = *(const Pair*)(x + 3);
}
extern "C" __global__ void local(int* out) {
    __shared__ long long lent;
    int mine = 1;
    if (threadIdx.x == 0) lent = (long long)&mine;
    __syncthreads();
    if (threadIdx.x == 1) *(int*)lent = 2;
    __syncthreads();
    out[threadIdx.x] = mine;
}
extern "C" __global__ void bytes(unsigned char* out) {
    out[threadIdx.x] = threadIdx.x;
    out[32 + threadIdx.x / 2] = 1;
}
extern "C" __global__ void many_readers(const int* x, int* out, int writer) {
    __shared__ int value;
    if (threadIdx.x == 0) value = x[0];
    __syncthreads();
    out[threadIdx.x] = value;
    __syncwarp();
    if (threadIdx.x == writer) value = 3;
}
"""
INTS = device_array(np.arange(64, dtype=np.int32))


def small(name: str, block: int, *arguments, grid: int = 1, order: int = 0) -> None:
    """Launch a kernel of SMALL in race mode."""
    Library(SMALL, "small.cu", "race").launch(name, (grid,), (block,), arguments, order=order)


def small_line(text: str) -> str:
    """Return the pattern of a message about an access in this line of SMALL."""
    number = next(i for i, line in enumerate(SMALL.splitlines(), 1) if text in line)
    return rf"small.cu:{number}: {THREAD}"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("block", "grid", "why"),
    [(50, 1, "no barrier between them"), (1, 50, "blocks are not ordered")],
)
def test_a_histogram(order, block, grid, why):
    x, counts = device_array(np.arange(50, dtype=np.int32) % 7), device_array(np.zeros(7, np.int32))
    small("histogram", block, x, counts, np.int32(50), grid=grid, order=order)
    np.testing.assert_array_equal(counts, np.bincount(x))
    line = small_line("counts[x[i]] += 1")
    with pytest.raises(
        EmulatorError,
        match=rf"race: {line} \w+ 4 bytes at \d+ of argument 1, which {line} wrote: {why}",
    ):
        small("not_atomic", block, x, counts, np.int32(50), grid=grid, order=order)


@pytest.mark.parametrize("order", ORDERS)
def test_an_atomic_and_a_plain_access(order):
    plain, atomic = small_line("counts[3] = 0"), small_line("atomicMax(")
    with pytest.raises(
        EmulatorError,
        match=rf"race: ({plain} writes.*{atomic} changed|{atomic} changes.*{plain} w)",
    ):
        small("half_atomic", 2, INTS, device_array(np.zeros(7, np.int32)), np.int32(1), order=order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("how", "ordered"), [(0, 1), (1, 0), (2, 1), (3, 0), (4, 1), (5, 0), (6, 0)]
)
def test_only_syncwarp_orders_the_lanes_of_its_mask(how, ordered, order):
    out = device_empty(32, "int32")
    if ordered:
        small("warp", 32, INTS, out, np.int32(how), order=order)
        return
    write, read = small_line("values[lane] ="), small_line("= values[other]")
    with pytest.raises(EmulatorError, match=f"race: ({write}.*{read}|{read}.*{write})"):
        small("warp", 32, INTS, out, np.int32(how), order=order)


@pytest.mark.parametrize(("how", "ordered"), [(0, 1), (1, 0), (2, 0)])
def test_a_fence_publishes_what_its_thread_did_before(how, ordered):
    flag, out = device_array(np.zeros(1, np.int32)), device_empty(3, "int32")
    if ordered:
        small("message", 1, flag, out, np.int32(how), grid=3)
        return
    write, read = small_line("out[b] = b;"), small_line("= out[how == 1]")
    with pytest.raises(EmulatorError, match=f"race: {read} reads.*{write} wrote: blocks are not"):
        small("message", 1, flag, out, np.int32(how), grid=3)


def test_a_vector_that_is_not_aligned():
    x, out = device_array(np.zeros(12, "f")), device_empty(4)
    small("vectors", 1, x, out, np.int32(4))
    line = small_line("*(float4*)out")
    with pytest.raises(
        EmulatorError, match=f"misaligned: {line} reads 16 bytes at 4 of argument 0: the address"
    ):
        small("vectors", 1, x, out, np.int32(1))
    with pytest.raises(EmulatorError, match=r"out of bounds: .* writes 16 bytes at 0 of arg.* 12 "):
        small("vectors", 1, x, device_empty(3), np.int32(4))
    small("pairs", 1, x, device_empty(5))  # floats, which need no alignment of 8 bytes


def test_a_local_variable_of_another_thread():
    line = small_line("*(int*)lent = 2")
    with pytest.raises(
        EmulatorError, match=f"out of bounds: {line} writes 4 bytes of a thread's local v"
    ):
        small("local", 2, device_empty(2, "int32"))


def test_races_are_found_by_bytes():
    out = device_empty(48, "uint8")
    line = small_line("out[32 + threadIdx.x / 2]")
    with pytest.raises(EmulatorError, match=f"race: {line} writes 1 byte at 32 of argument 0"):
        small("bytes", 32, out)


@pytest.mark.parametrize("writer", [0, 40, 95])
def test_one_of_many_readers_in_other_warps(writer):
    write, read = small_line("value = 3"), small_line("= value;")
    for order in range(15):  # only two readers are stored
        with pytest.raises(
            EmulatorError, match=f"race: ({write} writes.*{read} read|{read} reads.*{write} wrote)"
        ):
            small(
                "many_readers", 96, INTS, device_empty(96, "int32"), np.int32(writer), order=order
            )


TABLE = """
extern "C" __global__ void far(const float* x, float* y, long long i) { y[0] = x[i]; }
extern "C" __global__ void named(const unsigned long long* table, float* y, int i) {
    y[0] = ((const float*)table[0])[i];
}
"""


def test_an_array_that_was_not_passed():
    there, passed = device_array(np.zeros(4, "f")), device_array(np.zeros(4, "f"))
    distance = (there.ctypes.data - passed.ctypes.data) // 4
    library, y = Library(TABLE, "table.cu", "race"), device_empty(1)
    with pytest.raises(EmulatorError, match=r"table.cu:2: .* of an array that was not passed"):
        library.launch("far", (1,), (1,), (passed, y, np.int64(distance)))


def test_an_array_named_in_a_table():
    x, y = device_array(np.arange(4, dtype="f")), device_empty(1)
    table = device_array(np.array([x.ctypes.data, 70], np.uint64))
    library = Library(TABLE, "table.cu", "race")
    library.launch("named", (1,), (1,), (table, y, np.int32(3)))
    assert y[0] == 3
    with pytest.raises(EmulatorError, match=r"bounds: table.cu:4: .* of an array named in arg.* 0"):
        library.launch("named", (1,), (1,), (table, y, np.int32(4)))
