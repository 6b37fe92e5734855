"""CUDA's own compiler compiles every kernel for every architecture without register spills."""

import itertools
import shutil
import subprocess

import pytest
from test_main_loops import TWO, disassembler

import cuda_tables
from minddpm.gpucheck import timings
from minddpm.kernels import cuda
from minddpm.kernels.cuda.analysis import compile as nvrtc
from minddpm.kernels.cuda.analysis import disassembly
from minddpm.kernels.cuda.analysis.occupancy import LIMITS, resident_blocks
from minddpm.kernels.emulator.build import kernels
from tables import cells, markdown

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason="pip install nvidia-cuda-nvrtc")
headers = pytest.mark.skipif(
    nvrtc.in_wheels("cuda_occupancy.h") is None, reason="pip install nvidia-cuda-runtime"
)

SOURCE = """
extern "C" __global__ void __launch_bounds__(64, 2)
wide(const float4* x, float4* y, float a) {
    float4 v = x[threadIdx.x];
#pragma unroll
    for (int i = 0; i < STEPS; i++) v.x = v.x * a + v.y;
    y[threadIdx.x] = v;
}
extern "C" __global__ void narrow(const float* x, float* y, int n) {
    float seen[32] = {};
    for (int i = 0; i < 32; i++) seen[(int)x[i]] += x[i];
    y[0] = seen[n] + x[n] * x[n + 1];
}
extern "C" __global__ void __launch_bounds__(BLOCK) by_launch(float* x) {
    __shared__ float kept[16];
    kept[threadIdx.x % 16] = x[threadIdx.x + 1];
    __syncthreads();
    x[threadIdx.x] = kept[threadIdx.x % 15];
}
"""

# NVIDIA's occupancy calculator; each line of input: the limits of a card, a kernel's needs.
CALCULATOR = """
#include <cstdio>
#include "cuda_occupancy.h"
int main() {
    int architecture, warps, shared, reserved, threads, registers, bytes;
    while (scanf("%d %d %d %d %d %d %d", &architecture, &warps, &shared, &reserved, &threads,
                 &registers, &bytes) == 7) {
        cudaOccDeviceProp card;
        card.computeMajor = architecture / 10, card.computeMinor = architecture % 10;
        card.maxThreadsPerBlock = 1024, card.maxThreadsPerMultiprocessor = 32 * warps;
        card.regsPerBlock = card.regsPerMultiprocessor = 65536, card.warpSize = 32;
        card.sharedMemPerBlock = 49152, card.sharedMemPerMultiprocessor = shared;
        card.numSms = 1, card.reservedSharedMemPerBlock = reserved;
        card.sharedMemPerBlockOptin = shared - reserved;
        cudaOccFuncAttributes kernel;
        kernel.maxThreadsPerBlock = 1024, kernel.numRegs = registers;
        kernel.sharedSizeBytes = bytes, kernel.numBlockBarriers = 1;
        cudaOccDeviceState state;
        state.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;
        cudaOccResult result;
        cudaOccError error = cudaOccMaxActiveBlocksPerMultiprocessor(
            &result, &card, &kernel, &state, threads, 0);
        printf("%d\\n", error ? -1 : result.activeBlocksPerMultiprocessor);
    }
}
"""


CONV6 = cuda.FOLDER / "conv6_tensor.cu"
TILES = [("COLUMNS=32",), ("TILE=64",), ("TILE=64", "COLUMNS=32")]
UP_OR_STRIDE = [("UP=1",), ("STRIDE=2",)]
FORMATS = [
    ("TF32",), ("STORED",), ("BF16",), ("BF16", "STORED"), ("COLUMNS=32",), ("TF32", "COLUMNS=32"),
    ("STORED", "COLUMNS=32"),
]  # fmt: skip
VARIANTS = {  # other macros with which kernels/cuda compiles files
    "attention.cu": [(f"LANES={lanes}",) for lanes in (2, 4, 8, 16, 32)],
    **{f"conv4_{name}.cu": TILES + UP_OR_STRIDE for name in ("registers", "gradients", "separate")},
    "conv4_shortcut.cu": TILES,
    "linears.cu": TILES,
    **{f"conv6_{name}.cu": FORMATS for name in ("tensor", "gradients", "separate", "shortcut")},
    "norm.cu": [
        ("LANES=1",), ("STORED",), ("WIDE",), ("LANES=1", "WIDE"), ("STORED", "BF16"),
        ("STORED", "WIDE"), ("LANES=1", "STORED"),
    ],
}  # fmt: skip
SINCE_80 = {"TF32", "BF16"}
# These differ from the others in numbers alone, or as bfloat16 from half in single instructions, so
# the oldest and one of the newest are enough. bfloat16 with 32 columns is left out: each kernel of
# rung 6 has the registers of half.
ON_TWO = {"COLUMNS=32", "TILE=64", "UP=1", "STRIDE=2", "BF16"}


def architectures(file, defines):
    """Return those for which a file is compiled with these macros."""
    if ON_TWO & set(defines):
        return TWO
    # The tiles have the code of sm_89 for sm_86: test_main_loops.py
    same = {86} if defines and file.name.startswith("conv6") else set()
    return [a for a in nvrtc.ARCHITECTURES if a not in same]


def compilations():
    for file in cuda.files():
        for defines in [(), *VARIANTS.get(file.name, ())]:
            for architecture in architectures(file, defines):
                if architecture >= 80 or not SINCE_80 & set(defines):
                    name = "-".join((file.name, *defines, str(architecture)))
                    yield pytest.param(file, architecture, defines, id=name)


@pytest.mark.parametrize(("file", "architecture", "defines"), list(compilations()))
def test_every_kernel_compiles_without_spills(file, architecture, defines):
    needed = nvrtc.compile(file, architecture, defines).kernels
    assert set(needed) == set(kernels(file.read_text(), file.name, file.parent))
    for name, resources in needed.items():
        assert resources.registers > 0, name
        assert resources.spills == 0, name
        if not defines:  # no array in local memory, as one whose index varies
            assert resources.stack == 0, name


@pytest.mark.parametrize("define", sorted(SINCE_80))
def test_formats_that_a_t4_lacks_are_refused(define):
    with pytest.raises(RuntimeError, match=rf"{define} needs a GPU of compute capability 8\.0"):
        nvrtc.compile(CONV6, 75, (define,))


@pytest.fixture
def program(tmp_path):
    (file := tmp_path / "tiny.cu").write_text(SOURCE)
    return lambda architecture, *defines: nvrtc.compile(file, architecture, defines)


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_the_resources_of_a_kernel(program, architecture):
    needed = program(architecture, "STEPS=4", "BLOCK=128").kernels
    assert list(needed) == ["wide", "narrow", "by_launch"]
    assert [resources.threads for resources in needed.values()] == [64, None, 128]
    assert [resources.shared for resources in needed.values()] == [0, 0, 64]
    assert [resources.stack for resources in needed.values()] == [0, 128, 0]


def test_a_program_is_compiled_anew_if_its_source_or_its_options_change(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (file := tmp_path / "tiny.cu").write_text('#include "part.cuh"\n')
    (part := tmp_path / "part.cuh").write_text(SOURCE)
    calls, right = [], nvrtc._compile
    monkeypatch.setattr(nvrtc, "_compile", lambda *given: calls.append(given) or right(*given))

    def program(architecture=75, block=128):
        defines = "STEPS=4", f"BLOCK={block}"
        return nvrtc.compile.__wrapped__(file, architecture, defines)  # not the cache in memory

    programs = [program(), program()]
    assert programs[0] == programs[1] == right(file, 75, ("STEPS=4", "BLOCK=128"))
    assert len(calls) == 1
    programs += [program(80), program(block=256)]
    part.write_text(SOURCE.replace("v.x * a", "v.z * a"))
    programs.append(program())
    assert len(calls) == len({program.cubin for program in programs}) == 4


@disassembler
@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_instructions_are_counted(program, architecture):
    for steps in (4, 9):
        code = disassembly.disassemble(program(architecture, f"STEPS={steps}", "BLOCK=128").cubin)
        wide, narrow = (disassembly.count(code[kernel]) for kernel in ("wide", "narrow"))
        assert wide[1:] == (steps, 0, 1, 0, 1, 0)
        assert (narrow.fused, narrow.wide_loads, narrow.wide_stores) == (1, 0, 0)
        assert narrow.local > 0
        assert wide.total > sum(wide[1:])


@disassembler
@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_no_product_of_a_peak_is_left_out(architecture):
    """16 chains of FFMA, and eight sums of 16 x 8, each of which takes an instruction or more."""
    for file, kernel, fused, tensor in (
        ("peak.cu", "multiply_add", 16, 0),
        ("peak_tensor.cu", "multiply_add_tensor", 0, 8),
    ):
        program = nvrtc.compile(cuda.FOLDER / file, architecture)
        counted = disassembly.count(disassembly.disassemble(program.cubin)[kernel])
        assert counted.fused >= fused
        assert counted.tensor >= tensor


def test_an_error_contains_the_compilers_log(tmp_path):
    (file := tmp_path / "wrong.cu").write_text("__global__ void wrong() { missing(); }")
    with pytest.raises(RuntimeError, match=r"wrong\.cu for sm_80:\n.*missing"):
        nvrtc.compile(file, 80)


@disassembler
def test_bytes_that_are_no_code_are_refused():
    with pytest.raises(RuntimeError, match="nvdisasm does not read"):
        disassembly.disassemble(b"no cubin")


@headers
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_occupancy_equals_nvidias_calculator(tmp_path):
    (source := tmp_path / "calculator.cc").write_text(CALCULATOR)
    include = nvrtc.in_wheels("cuda_occupancy.h").parent
    command = ["g++", "-w", f"-I{include}", str(source), "-o", str(tmp_path / "calculator")]
    subprocess.run(command, check=True)
    needs = list(
        itertools.product(
            LIMITS, (32, 33, 224, 256, 672, 1024), (1, 24, 32, 33, 79, 128, 255),
            (0, 1, 256, 2112, 10880, 16000, 16896, 20096, 22912, 49152),
        )
    )  # fmt: skip
    lines = []
    for architecture, *block_needs in needs:
        limits = LIMITS[architecture]
        numbers = [architecture, limits.warps, limits.shared, limits.reserved, *block_needs]
        lines.append(" ".join(map(str, numbers)))
    done = subprocess.run(
        [str(tmp_path / "calculator")], input="\n".join(lines), capture_output=True, text=True
    )
    theirs = dict(zip(needs, map(int, done.stdout.split()), strict=True))
    assert len(set(theirs.values())) > 10
    assert {need: resident_blocks(*need) for need in needs} == theirs


@disassembler
def test_the_table_has_every_kernel():
    head, rows = cuda_tables.compiled()
    assert {len(row) for row in rows} == {len(head)}
    assert [cells(line) for line in markdown(head, rows).splitlines()[2:]] == rows
    expected = [
        f"{file.stem}: {name}"
        for file in cuda.files()
        for name in kernels(file.read_text(), file.name, file.parent)
    ]
    assert [row[0] for row in rows] == expected


def test_the_wait_kernel_of_the_timings_compiles(tmp_path):
    """It is not in a .cu file, and the emulator has no clock."""
    (file := tmp_path / "wait.cu").write_text(timings.WAIT)
    for architecture in nvrtc.ARCHITECTURES:
        assert list(nvrtc.compile(file, architecture).kernels) == ["wait"]
