"""The CUDA emulator: runs a kernel in any order of its threads, and reports errors in kernels."""

import shutil

import numpy as np
import pytest
from cuda_checks import ORDERS, needs_compiler
from emulated import CUDA, line_of, norm_backward, planted, silu

from minddpm.kernels.emulator import EmulatorError, Library, build, device_array, device_empty

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def pointwise():
    return Library((CUDA / "pointwise.cu").read_text(), CUDA / "pointwise.cu")


def test_a_correct_kernel_gives_the_same_result_in_every_order():
    library = Library((CUDA / "norm.cu").read_text(), CUDA / "norm.cu")
    first, *others = (norm_backward(library, order) for order in ORDERS)
    assert all(np.isfinite(result).all() for result in first)
    for other in others:
        for a, b in zip(first, other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_kernels_share_the_stacks_of_their_threads():
    """Linux limits the mappings of a process: two for each stack, of 1,024."""
    before = None
    for n in range(3):
        library = Library(f'extern "C" __global__ void set(float* y) {{ *y = {n}; }}')
        library.launch("set", (1,), (1024,), (device_empty(1),))
        with open("/proc/self/maps") as maps:
            count = sum(1 for _ in maps)
        assert before is None or count < before + 100
        before = count


def test_a_missing_barrier_gives_another_result_in_another_order():
    barrier = "            __syncthreads();\n"
    library = planted("norm.cu", barrier, "")
    results = [norm_backward(library, order)[1] for order in ORDERS]
    assert not all(np.array_equal(results[0], r) for r in results)


def test_uninitialised_shared_memory_is_nan():
    library = planted("norm.cu", "shared[threadIdx.x] = sums;", "")
    assert np.isnan(norm_backward(library)[2]).all()


def test_a_barrier_that_not_all_threads_reach():
    right = "(gbias + c) = sum;"
    library = planted("norm.cu", right, f"{right}\n        __syncthreads();")
    line = line_of("norm.cu", right) + 1
    with pytest.raises(EmulatorError, match=rf"divergent barrier.*line {line},.*has ended"):
        norm_backward(library)


def test_a_write_beyond_a_shared_array():
    library = planted("norm.cu", "shared[MOST_THREADS_BACKWARD];", "shared[224];")
    with pytest.raises(EmulatorError, match=r"beyond the end of shared \(3584 bytes\)"):
        norm_backward(library)


def test_a_store_just_behind_an_array():
    library = planted("pointwise.cu", "EACH(i, n)) y", "EACH(i, n + 1)) y")
    with pytest.raises(EmulatorError, match="silu wrote behind argument 1"):
        silu(library, 30)


def test_a_store_far_behind_an_array_names_thread_and_line(pointwise):
    library = planted("pointwise.cu", "y[i] = x[i] / (1.0f", "y[i + n] = x[i] / (1.0f")
    line = line_of("pointwise.cu", "y[i] = x[i] / (1.0f")
    with pytest.raises(
        EmulatorError, match=rf"pointwise.cu:{line}: thread \(0, 0, 0\) of block \(0, 0, 0\)"
    ):
        silu(library, 32)
    assert np.isfinite(silu(pointwise, 32)).all()  # the next launch works


def test_a_store_in_front_of_an_array():
    library = planted("pointwise.cu", "y[i] = x[i] / (1.0f", "y[i - 1] = x[i] / (1.0f")
    with pytest.raises(EmulatorError, match="silu wrote before argument 1"):
        silu(library, 32)


def test_an_unwritten_element_is_nan():
    library = planted("pointwise.cu", "EACH(i, n)) y", "EACH(i, n - 1)) y")
    assert np.isnan(silu(library, 30)[-1])


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (3.0, "argument 2 of ema is 3.0: pass a NumPy scalar.*floating-point number of 4 bytes"),
        (np.float64(3), "argument 2 of ema is float64 where a floating-point number of 4 bytes"),
        (np.int32(3), "argument 2 of ema is int32 where a floating-point number of 4 bytes"),
    ],
)
def test_a_scalar_of_another_type(pointwise, argument, message):
    a, b = device_array(np.zeros(4, "f")), device_array(np.zeros(4, "f"))
    with pytest.raises(EmulatorError, match=message):
        pointwise.launch("ema", (1,), (32,), (a, b, argument, np.int32(4)))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (device_array(np.zeros(8)), "argument 0 of ema has float64 where a floating-point number"),
        (device_array(np.zeros((4, 4), "f"))[:, 0], "not C-contiguous"),
        (np.zeros(4, "f"), "argument 0 of ema is not on the device"),
        (np.float32(1), "should be an array"),
    ],
)
def test_an_array_of_another_kind(pointwise, x, message):
    with pytest.raises(EmulatorError, match=message):
        pointwise.launch("ema", (1,), (32,), (x, x, np.float32(1), np.int32(4)))


def test_the_number_of_arguments(pointwise):
    with pytest.raises(EmulatorError, match="ema takes 4 arguments and was given 1"):
        pointwise.launch("ema", (1,), (32,), (np.int32(1),))


@pytest.mark.parametrize(
    ("grid", "block", "message"),
    [
        ((1,), (1025,), "1 to 1024"),
        ((1,), (1, 1, 65), "64 in z"),
        ((1, 65536), (32,), "65535 in y"),
        ((0,), (32,), "1 to 2"),
    ],
)
def test_the_limits_of_a_launch(pointwise, grid, block, message):
    a = device_array(np.zeros(4, "f"))
    with pytest.raises(EmulatorError, match=message):
        pointwise.launch("ema", grid, block, (a, a, np.float32(1), np.int32(4)))


def test_more_threads_than_the_launch_bounds_promise():
    library = Library((CUDA / "pointwise.cu").read_text(), CUDA / "pointwise.cu")
    x, parts = device_array(np.zeros(4, "f")), device_empty(1, "float64")
    counter = device_array(np.zeros(1, np.uint32))
    with pytest.raises(EmulatorError, match=r"288 threads, where __launch_bounds__ promises.* 256"):
        library.launch("squared_norm", (1,), (288,), (x, parts, parts, counter, np.int32(4)))


WARP = """
extern "C" __global__ void together(int* out, unsigned mask) {
    int lane = threadIdx.x % 32, v = threadIdx.x;
    if (!(mask >> lane & 1)) return;
    out[8 * threadIdx.x + 0] = __shfl_sync(mask, v, 3);
    out[8 * threadIdx.x + 1] = __shfl_xor_sync(mask, v, 1);
    out[8 * threadIdx.x + 2] = __shfl_down_sync(mask, v, 2);
    out[8 * threadIdx.x + 3] = __shfl_up_sync(mask, v, 2, 8);
    out[8 * threadIdx.x + 4] = __ballot_sync(mask, v % 3 == 0);
    out[8 * threadIdx.x + 5] = __any_sync(mask, v == 5);
    out[8 * threadIdx.x + 6] = __all_sync(mask, v >= 0);
    out[8 * threadIdx.x + 7] = 0;
}
extern "C" __global__ void votes(int* out) {
    __shared__ float big[4];
    big[threadIdx.x % 4] = 0;
    int before = __syncthreads_count(threadIdx.x < 5);
    int some = __syncthreads_or(threadIdx.x == 7), all = __syncthreads_and(threadIdx.x != 7);
    out[threadIdx.x] = before + 100 * some + 1000 * all + 10000 * __syncthreads_count(1);
}
extern "C" __global__ void reversed(float* x) {
    extern __shared__ float copy[];
    copy[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    x[threadIdx.x] = copy[blockDim.x - 1 - threadIdx.x];
}
"""


@pytest.mark.parametrize("order", ORDERS)
def test_warp_operations(order):
    out = device_array(np.full((64, 8), -1, np.int32))
    Library(WARP).launch("together", (1,), (64,), (out, np.uint32(0xFFFFFFFF)), order=order)
    v = np.arange(64)
    lane, first = v % 32, v // 32 * 32
    votes = np.where(first == 0, *(int(sum(1 << i for i in range(32) if (i + f) % 3 == 0))
                                   for f in (0, 32)))  # fmt: skip
    expected = np.stack([
        first + 3, v ^ 1, np.where(lane < 30, v + 2, v), np.where(v % 8 >= 2, v - 2, v),
        votes.astype(np.uint32).view(np.int32) if votes.dtype == np.uint32 else
        votes.astype(np.int64).astype(np.uint32).view(np.int32),
        first == 0, np.ones(64), np.zeros(64),
    ], axis=1)  # fmt: skip
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("order", ORDERS)
def test_votes_at_barriers(order):
    out = device_array(np.zeros(40, np.int32))
    Library(WARP).launch("votes", (1,), (40,), (out,), order=order)
    assert (out == 5 + 100 * 1 + 1000 * 0 + 10000 * 40).all()


def test_dynamic_shared_memory():
    library = Library(WARP)
    x = device_array(np.arange(8, dtype=np.float32))
    library.launch("reversed", (1,), (8,), (x,), shared=32)
    np.testing.assert_array_equal(x, np.arange(8)[::-1])
    with pytest.raises(EmulatorError, match="beyond the end of dynamic shared memory"):
        library.launch("reversed", (1,), (8,), (x,), shared=16)


def test_a_mask_that_names_missing_lanes():
    out = device_array(np.zeros((16, 8), np.int32))
    with pytest.raises(EmulatorError, match=r"line 5: the mask ffffffff names lanes that .* 16 "):
        Library(WARP).launch("together", (1,), (16,), (out, np.uint32(0xFFFFFFFF)))


def test_lanes_that_never_arrive():
    source = WARP.replace("if (!(mask >> lane & 1)) return;", "if (lane == 9) return;")
    out = device_array(np.zeros((32, 8), np.int32))
    with pytest.raises(EmulatorError, match=r"line 5: .* of which only fffffdff come"):
        Library(source).launch("together", (1,), (32,), (out, np.uint32(0xFFFFFFFF)))


def test_a_kernel_that_does_not_compile():
    with pytest.raises(RuntimeError, match=r"wrong.cu:1:"):
        Library('extern "C" __global__ void f(float* x) { y = 0; }', "wrong.cu")


BRANCHES = """
// __shared__ in a comment is no declaration
extern "C" __global__ void first_lanes(int* out) {
    int lane = threadIdx.x, v = lane;
    unsigned few = __ballot_sync(~0u, lane < 8);
    if (lane < 8) v = __shfl_sync(few, v, 3) + __shfl_sync(few, v, 2);
    v = __shfl_xor_sync(~0u, v, 1);
    if (lane % 2) v += __shfl_xor_sync(0xaaaaaaaau, v, 2);
    else v += __shfl_xor_sync(0x55555555u, v, 2);
    out[lane] = v;
}
extern "C" __global__ void absent(int* out) {
    if (threadIdx.x < 8) out[threadIdx.x] = __shfl_sync(0xffu, 1, 20);
}
extern "C" __global__ void one_too_far(int* out) {
    __shared__ unsigned long long sums[4], others[3];
    __shared__ float line[33];
    for (int i = 0; i < 34; i++) line[i] = 0;
    sums[0] = others[2] = 1;
    out[0] = sums[0];
}
extern "C" __global__ void too_much(int* out) {
    __shared__ float big[12 * 1024];
    big[threadIdx.x] = 0;
    extern __shared__ float more[];
    more[0] = 0;
    out[0] = 0;
}
"""


@pytest.mark.parametrize("order", ORDERS)
def test_branches_of_a_warp_may_have_their_own_operations(order):
    out = device_array(np.zeros(32, np.int32))
    Library(BRANCHES).launch("first_lanes", (1,), (32,), (out,), order=order)
    v = np.where(np.arange(32) < 8, 5, np.arange(32))[np.arange(32) ^ 1]
    np.testing.assert_array_equal(out, v + v[np.arange(32) ^ 2])


@pytest.mark.parametrize(
    ("name", "shared", "message"),
    [
        ("absent", 0, "reads lane 20, which is not in the mask 000000ff"),
        ("one_too_far", 0, r"beyond the end of line \(132 bytes\)"),
        ("too_much", 16, "big: 49168 bytes of shared memory"),
        ("too_much", 50000, "50000 bytes of shared memory"),
        ("nothing", 0, "there is no kernel nothing: first_lanes"),
    ],
)
def test_other_errors(name, shared, message):
    out = device_array(np.zeros(32, np.int32))
    with pytest.raises(EmulatorError, match=message):
        Library(BRANCHES).launch(name, (1,), (32,), (out,), shared=shared)


SPIN = """
extern "C" __global__ void handed_on(int* flag) {
    if (threadIdx.x == 1) atomicExch(flag, 1);
    if (threadIdx.x == 0)
        while (atomicAdd(flag, 0) == 0) {}
}
"""


@pytest.mark.parametrize("mode", ["plain", "race"])
def test_a_thread_that_waits_for_another_in_a_loop(mode):
    flag = device_array(np.zeros(1, np.int32))
    library = Library(SPIN, "spin.cu", mode)
    with pytest.raises(EmulatorError, match=r"spin.cu:5: thread \(0, 0, 0\) .* waits forever"):
        library.launch("handed_on", (1,), (2,), (flag,))
    library.launch("handed_on", (1,), (2,), (flag,), order=1)


def test_another_checkout_with_the_same_cache(monkeypatch, tmp_path):
    """A library contains the paths of its emulator: lines are found with either checkout's."""
    copy = tmp_path / "emulator"
    shutil.copytree(build.MACHINE_FOLDER, copy)
    for folder in (build.MACHINE_FOLDER, copy):
        monkeypatch.setattr(build, "MACHINE_FOLDER", folder)
        test_a_thread_that_waits_for_another_in_a_loop("plain")


def test_an_unwritten_double_is_nan():
    assert np.isnan(device_empty(3, "float64")).all()
