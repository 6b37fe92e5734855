"""Race mode of the CUDA emulator: every kernel passes it, and each class of bug is reported."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_cuda
from test_emulator import CUDA, ORDERS, line_of, norm_backward, planted, silu
from test_stand_in import trainer

from minddpm import backend
from minddpm.errors import InputError
from minddpm.kernels.cuda import convolution
from minddpm.kernels.emulator import (
    EmulatorError,
    Library,
    build,
    device_array,
    device_empty,
)
from minddpm.kernels.emulator.cupy_on_cpu.cuda import emulation

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")

# --- what is right passes ------------------------------------------------------------------------


@pytest.fixture
def in_race_mode(stand_in, monkeypatch):
    """The kernels of the cupy backend run in race mode; a list of those that were launched."""
    monkeypatch.setattr(emulation, "mode", "race")
    launched, launch = set(), Library.launch

    def listed(library, name, *arguments, **how):
        launched.add((Path(library.path).name, name))
        launch(library, name, *arguments, **how)

    monkeypatch.setattr(Library, "launch", listed)
    return launched


class Drawn:
    """Stands for hypothesis' `data` where it is known what a test draws from it."""

    def __init__(self, *values):
        self.values = itertools.cycle(values)

    def draw(self, strategy):
        return next(self.values)


def small_convolution(draw):
    x, w, b = test_cuda.draw(0, (2, 7, 5, 8), (3, 2, 8, 8), 8)
    return x, w, b, 2, ((1, 0), (1, 1))


# The bodies of tests/test_cuda.py, at small sizes that need more than one block. Each of them runs
# its kernels in three orders.
BODIES = [
    ("silu_and_add", dict(n=300, seed=0)),
    ("upsample_nearest", dict(N=2, H=3, W=5, C=3)),
    ("timestep_features", dict(C=33, cosines_first=True)),
    ("q_sample", dict(N=3, P=90)),
    ("adam_and_ema", dict(n=300, step=2, averaged=True)),
    ("clip_scale", dict(value=4.0)),
    ("sampler_step", dict(n=300, clip=True, sigma=0.3)),
    ("squared_norm", dict(n=600)),
    ("random_numbers_are_the_very_same", dict(n=281, first=3)),
    ("random_normal", dict()),
    ("q_sample_normal", dict(N=3, P=50)),
    ("dropout", dict(n=300, p=0.5)),
    ("sampler_step_normal", dict(n=300, first=6)),
    ("replayed", dict(N=3, P=100)),
    ("group_norm", dict(N=2, P=7, groups=2, size=8, with_silu=True, seed=0)),
    ("attention", dict(N=1, L=10, heads=2, D=33, scale=1.0)),
    *(("a_rung", dict(rung=rung, data=Drawn(4, 1, True))) for rung in convolution.RUNGS),
    ("a_rung", dict(rung="4 register tile", data=Drawn(3, 0, True))),  # without vectors
    ("conv2d", dict(data=Drawn(True, True))),
    ("conv_transpose2d",
     dict(N=2, H=3, W=5, C_in=8, C_out=8, window=(4, 4, 2, 1), need_gx=True, with_partial=True)),
    ("linear", dict(rows=130, K=8, parts=(4, 8))),
    ("linears", dict(shape=(3, 49), C=8, Ks=(3, 70), with_partial=True)),
    ("norm_silu_conv2d",
     dict(N=2, H=3, W=5, parts=(4, 8), K=8, with_shift=True, with_more=True)),
    ("winograd", dict(N=1, H=7, W=5, C=8, K=8, pad=(1, 1, 1, 1), full=True)),
]  # fmt: skip


def test_every_kernel_passes(in_race_mode, monkeypatch):
    monkeypatch.setattr(test_cuda, "drawn_convolution", small_convolution)
    for name, arguments in BODIES:
        body = getattr(test_cuda, f"test_{name}")
        if hasattr(body, "hypothesis"):
            body = body.hypothesis.inner_test
        body(**arguments)
    every = {
        (file.name, name)
        for file in CUDA.glob("*.cu")
        for name in build.kernels(file.read_text(), str(file), CUDA)
    }
    assert in_race_mode == every, "a kernel needs a line in BODIES"


@pytest.mark.parametrize("precision", ["float32", "fp16", "bf16"])
def test_a_training_step_passes(emulated_cupy, tmp_path, monkeypatch, precision):
    monkeypatch.setattr(emulation, "mode", "race")
    monkeypatch.setattr(emulation, "order", 2)
    model = trainer("cupy", tmp_path)
    backend.set_precision(precision)
    used, right = set(), convolution.launch

    def launch(file, *arguments, **options):
        used.add((file, "-DSTORED" in options.get("options", ())))
        right(file, *arguments, **options)

    monkeypatch.setattr(convolution, "launch", launch)
    record = model.train_step()
    assert np.isfinite(record.losses.get()).all()
    assert (("conv6_tensor.cu", True) in used) == (precision != "float32")


# --- what is wrong is reported -------------------------------------------------------------------

THREAD = r"thread \(\d+, \d+, \d+\) of block \(\d+, \d+, \d+\)"


def place(file: str, text: str) -> str:
    """What a message says of an access in this line."""
    return rf"{file}:{line_of(file, text)}: {THREAD}"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("right", "wrong", "write", "read"),
    [
        ("= sum_n;\n        __syncthreads();", "= sum_n;\n", "plain[threadIdx.x] = sum;",
         "sum += plain[other"),
        ("__syncthreads();  // the next sum", ";  // the next sum", "[threadIdx.x / 32] = value;",
         "total += of_warps[w]"),
    ],
)  # fmt: skip
def test_a_missing_barrier(right, wrong, write, read, order):
    write, read = place("norm.cu", write), place("norm.cu", read)
    with pytest.raises(
        EmulatorError,
        match=rf"race: ({read} reads 4 bytes at \d+ of (plain|of_warps), which {write} wrote|"
        rf"{write} writes 4 bytes at \d+ of (plain|of_warps), which {read} read): no barrier betw",
    ):
        norm_backward(planted("norm.cu", right, wrong, "race"), order)


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_that_write_the_same_element(order):
    right = "sums[(long long)image * C + c] = sum;"
    line = place("norm.cu", right)
    with pytest.raises(
        EmulatorError,
        match=rf"race: {line} writes 4 bytes at \d+ of argument \d+, which {line} wrote: "
        "blocks are not ordered",
    ):
        norm_backward(planted("norm.cu", right, "sums[c] = sum;", "race"), order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_fence(tmp_path, missing, order):
    shutil.copytree(CUDA, tmp_path, dirs_exist_ok=True)
    header, fence = tmp_path / "last_block.cuh", "        __threadfence();\n"
    first, second, rest = header.read_text().split(fence)
    parts = (first, second, fence, rest) if missing == 1 else (first, fence, second, rest)
    header.write_text("".join(parts))
    write = place("norm.cu", "sums[(long long)image * C + c] = sum;")
    read = place("norm.cu", "sum += __ldcg(")
    with pytest.raises(
        EmulatorError,
        match=rf"race: {read} reads 4 bytes at .* of argument \d+, which {write} wrote: blocks are",
    ):
        norm_backward(Library((CUDA / "norm.cu").read_text(), tmp_path / "norm.cu", "race"), order)


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("EACH(i, n)) y", "EACH(i, n + 1)) y", "reads 4 bytes at 120 of argument 0, .* 120 bytes"),
        ("y[i] = x[i] / (", "y[i] = x[i + 1] / (", "reads 4 bytes at 120 of argument 0"),
        ("y[i] = x[i] / (", "y[i] = x[i - 1] / (", "reads 4 bytes at -4 of argument 0"),
        ("y[i] = x[i] / (", "y[i + 1] = x[i] / (", "writes 4 bytes at 120 of argument 1"),
        ("y[i] = x[i] / (", "y[i + n] = x[i] / (", "writes 4 bytes at 120 of argument 1"),
        ("y[i] = x[i] / (", "y[i] = x[i - (1ll << 40)] / (", "reads 4 bytes of no array"),
        ("y[i] = x[i] / (", "y[i] = ((float*)0)[i] / (", "reads 4 bytes of no array"),
    ],
)
def test_outside_of_an_array(right, wrong, message):
    library = planted("pointwise.cu", right, wrong, "race")
    line = place("pointwise.cu", "y[i] = x[i] / (1.0f")
    with pytest.raises(EmulatorError, match=f"out of bounds: {line} {message}"):
        silu(library, 30)


def test_outside_of_a_shared_array():
    library = planted("norm.cu", "tilted[THREADS];", "tilted[224];", "race")
    line = place("norm.cu", "tilted[threadIdx.x] =")
    with pytest.raises(
        EmulatorError,
        match=rf"out of bounds: {line} writes 4 bytes at 896 of tilted, which has 896 bytes",
    ):
        norm_backward(library)


def test_shared_memory_that_nobody_wrote():
    library = planted("norm.cu", "plain[threadIdx.x] = sum;", "", "race")
    line = place("norm.cu", "sum += plain[other")
    with pytest.raises(
        EmulatorError, match=f"uninitialised: {line} reads 4 bytes at 40 of plain, which nobody"
    ):
        norm_backward(library)


def test_an_array_that_nobody_wrote():
    library = planted("pointwise.cu", "y[i] = x[i]", "y[i] = y[i] + x[i]", "race")
    line = place("pointwise.cu", "y[i] = x[i] / (1.0f")
    with pytest.raises(
        EmulatorError, match=f"uninitialised: {line} reads 4 bytes at 0 of argument 1, which nobody"
    ):
        silu(library, 30)


def test_a_barrier_that_not_all_threads_reach():
    wrong = "gbias[c] = sum;\n        __syncthreads();"
    line = line_of("norm.cu", "gbias[c] = sum;") + 1
    with pytest.raises(
        EmulatorError,
        match=rf"divergent barrier: {THREAD} waits at line {line}, thread .* has ended",
    ):
        norm_backward(planted("norm.cu", "gbias[c] = sum;", wrong, "race"))


def test_a_scalar_of_another_type():
    right = "param, float rest, int n"
    library = planted("pointwise.cu", right, right.replace("int", "long long"), "race")
    a = device_array(np.zeros(4, "f"))
    with pytest.raises(EmulatorError, match="argument 3 of ema is a int32 where signed, 8 bytes"):
        library.launch("ema", (1,), (32,), (a, a, np.float32(1), np.int32(4)))


# --- kernels for what no real one does -----------------------------------------------------------

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
    if (how == 4) {  // from the first half to all by way of lane 0, which is in both masks
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
    Library(SMALL, "small.cu", "race").launch(name, (grid,), (block,), arguments, order=order)


def small_line(text: str) -> str:
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
    small("pairs", 1, x, device_empty(5))  # of numbers, which may be read one by one


def test_a_local_variable_of_another_thread():
    line = small_line("*(int*)lent = 2")
    with pytest.raises(
        EmulatorError, match=f"out of bounds: {line} writes 4 bytes of a thread's local v"
    ):
        small("local", 2, device_empty(2, "int32"))


def test_bytes_are_told_apart():
    out = device_empty(48, "uint8")
    line = small_line("out[32 + threadIdx.x / 2]")
    with pytest.raises(EmulatorError, match=f"race: {line} writes 1 byte at 32 of argument 0"):
        small("bytes", 32, out)


@pytest.mark.parametrize("writer", [0, 40, 95])
def test_one_of_many_readers_in_other_warps(writer):
    write, read = small_line("value = 3"), small_line("= value;")
    for order in range(15):  # only two of the readers are remembered
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


# --- building ------------------------------------------------------------------------------------


def test_a_mode_that_there_is_not():
    with pytest.raises(InputError, match="no mode 'rice' of the emulator: plain, race, profile"):
        Library(SMALL, "small.cu", "rice")


def test_a_compiler_that_cannot_watch(tmp_path, monkeypatch):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'error: -fsanitize=thread is not supported' >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    build._compiler.cache_clear()
    with pytest.raises(InputError, match="race and profile need a g\\+\\+ that knows"):
        Library(SMALL, "small.cu", "race")
    build._compiler.cache_clear()
