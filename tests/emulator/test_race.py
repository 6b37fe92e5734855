"""Race mode reports each class of bug that is planted in a real kernel."""

import shutil

import numpy as np
import pytest
from cuda_checks import ORDERS, needs_compiler
from emulated import CUDA, THREAD, line_of, norm_backward, planted, silu

from minddpm.errors import InputError
from minddpm.kernels.emulator import EmulatorError, Library, build, device_array

pytestmark = needs_compiler


def place(file: str, text: str) -> str:
    """Return the pattern of a message about an access in this line."""
    return rf"{file}:{line_of(file, text)}: {THREAD}"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("right", "wrong", "write", "read"),
    [
        ("            __syncthreads();\n", "\n", "        shared[threadIdx.x] = sums;",
         "other = shared["),
        ("__syncthreads();  // the previous sums", ";//", "        shared[threadIdx.x] = sums;",
         "other = shared["),
    ],
)  # fmt: skip
def test_a_missing_barrier(right, wrong, write, read, order):
    write, read = place("norm.cu", write), place("norm.cu", read)
    with pytest.raises(
        EmulatorError,
        match=rf"race: ({read} reads 16 bytes at \d+ of shared, which {write} wrote|"
        rf"{write} writes 16 bytes at \d+ of shared, which {read} read): "
        "no barrier betw",
    ):
        norm_backward(planted("norm.cu", right, wrong, "race"), order)


@pytest.mark.parametrize("order", ORDERS)
def test_blocks_that_write_the_same_element(order):
    right = "(sums + (2 * mine.image * C + c)) = sum;"
    line = place("norm.cu", right)
    with pytest.raises(
        EmulatorError,
        match=rf"race: {line} writes 16 bytes at \d+ of argument \d+, which {line} wrote: "
        "blocks are not ordered",
    ):
        norm_backward(planted("norm.cu", right, "(sums + c) = sum;", "race"), order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("missing", [1, 2])
def test_a_missing_fence(tmp_path, missing, order):
    shutil.copytree(CUDA, tmp_path, dirs_exist_ok=True)
    header, fence = tmp_path / "last_block.cuh", "    __threadfence();\n"
    first, second, rest = header.read_text().split(fence)
    parts = (first, second, fence, rest) if missing == 1 else (first, fence, second, rest)
    header.write_text("".join(parts))
    write = place("norm.cu", "(sums + (2 * mine.image * C + c)) = sum;")
    read = place("norm.cu", "sum.of[j] += __ldcg(")
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
    library = planted("norm.cu", "shared[MOST_THREADS_BACKWARD];", "shared[224];", "race")
    line = place("norm.cu", "shared[threadIdx.x] =")
    with pytest.raises(
        EmulatorError,
        match=rf"out of bounds: {line} writes 16 bytes at 3584 of shared, which has 3584 bytes",
    ):
        norm_backward(library)


def test_uninitialised_shared_memory():
    library = planted("norm.cu", "shared[threadIdx.x] = sums;", "", "race")
    line = place("norm.cu", "other = shared[")
    with pytest.raises(
        EmulatorError, match=f"uninitialised: {line} reads 16 bytes at 512 of shared, which nobody"
    ):
        norm_backward(library)


def test_an_uninitialised_array():
    library = planted("pointwise.cu", "y[i] = x[i]", "y[i] = y[i] + x[i]", "race")
    line = place("pointwise.cu", "y[i] = x[i] / (1.0f")
    with pytest.raises(
        EmulatorError, match=f"uninitialised: {line} reads 4 bytes at 0 of argument 1, which nobody"
    ):
        silu(library, 30)


def test_a_barrier_that_not_all_threads_reach():
    right = "(gbias + c) = sum;"
    wrong = f"{right}\n        __syncthreads();"
    line = line_of("norm.cu", right) + 1
    with pytest.raises(
        EmulatorError,
        match=rf"divergent barrier: {THREAD} waits at line {line}, thread .* has ended",
    ):
        norm_backward(planted("norm.cu", right, wrong, "race"))


def test_a_scalar_of_another_type():
    right = "param, float rest, int n"
    library = planted("pointwise.cu", right, right.replace("int", "long long"), "race")
    a = device_array(np.zeros(4, "f"))
    with pytest.raises(EmulatorError, match="ema is int32 where a signed integer of 8 bytes"):
        library.launch("ema", (1,), (32,), (a, a, np.float32(1), np.int32(4)))


# --- building ------------------------------------------------------------------------------------


KERNEL = 'extern "C" __global__ void f(float* x) { x[0] = 1; }'


def test_an_unknown_mode():
    with pytest.raises(InputError, match="no mode 'rice' of the emulator: plain, race, profile"):
        Library(KERNEL, "kernel.cu", "rice")


def test_a_compiler_without_instrumentation(tmp_path, monkeypatch):
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\necho 'error: -fsanitize=thread is not supported' >&2; exit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    build._compiler.cache_clear()
    with pytest.raises(InputError, match="race and profile need a g\\+\\+ that knows"):
        Library(KERNEL, "kernel.cu", "race")
    build._compiler.cache_clear()
