"""The main loops in the machine code of CUDA's own compiler: arithmetic, and little else."""

import pytest

import cuda_tables
from minddpm.kernels import cuda
from minddpm.kernels.cuda.analysis import compile as nvrtc
from minddpm.kernels.cuda.analysis import disassembly, mainloop
from minddpm.kernels.cuda.analysis.roofline import CARDS, Layer

TWO = 75, 90
REGISTER_TILES = [
    name for name in cuda_tables.TILES if name.startswith(("128 x", "64 x", "linears"))
]
# The FMA unit of an architecture may be busy for so much of the time, at least. On sm_89 only the
# gradients of stride 2 are below 0.8, because gy's rows and columns are halves of those of x.
LEAST = {75: 0.9, 80: 0.9, 89: 0.795, 90: 0.79}
disassembler = pytest.mark.skipif(
    not (nvrtc.available() and disassembly.available()),
    reason="pip install nvidia-cuda-nvrtc nvidia-cuda-nvdisasm",
)


def instruction(opcode, operands="", predicate=None):
    made = {"opcode": opcode, "operands": operands}
    return made | ({"predicate": predicate} if predicate else {})


def test_the_main_loop_is_found_and_its_best_path():
    """Two loops: one without arithmetic; one that loads vectors, or numbers one by one."""
    jump = lambda index: f"{16 * index:#x}"  # noqa: E731
    code = [
        instruction("MOV"),
        instruction("IADD3"),
        instruction("BRA", jump(1), "@P0"),
        instruction("FFMA"),  # 3: the head of the main loop
        instruction("BRA", jump(8), "@P1"),
        instruction("LDG.E.128"),
        instruction("IMAD.IADD"),
        instruction("BRA", jump(11)),
        instruction("LDG.E"),  # 8: one by one
        instruction("LDG.E"),
        instruction("MUFU.RCP"),
        instruction("LDS.128"),  # 11
        instruction("FFMA"),
        instruction("STS"),
        instruction("BRA", jump(3), "@!P2"),
        instruction("EXIT"),
    ]
    (loop,) = mainloop.main_loops(code, 80)
    assert (loop.instructions, loop.arithmetic, loop.divisions, loop.loads) == (9, 2, 0, 16)
    assert loop.products == 2 * 32
    assert loop.cycles["FMA"] == 2 * 3
    assert loop.cycles["issue"] == 9
    assert loop.cycles["shared memory"] == 4 * 3
    assert loop.limit == "shared memory"
    assert loop.ceiling(80) == 2 * 2 / 12
    assert mainloop.main_loops(code, 90)[0].ceiling(90) == 2 / 12


def test_a_loop_of_tensor_cores():
    """The path fetches and stores, although it would be shorter not to."""
    jump = lambda index: f"{16 * index:#x}"  # noqa: E731
    code = [
        instruction("BRA", jump(3), "@P0"),
        instruction("LDGSTS.E.BYPASS.128"),
        instruction("LDG.E.128"),
        instruction("LDSM.16.MT88.4"),
        instruction("HMMA.16816.F32"),
        instruction("FFMA"),  # which rounds, and is no product
        instruction("HMMA.1688.F32.TF32"),
        instruction("BRA", jump(9), "@P0"),
        instruction("STS.64"),
        instruction("BRA", jump(0), "@P1"),
    ]
    (loop,) = mainloop.main_loops(code, 80)
    assert (loop.instructions, loop.arithmetic, loop.loads) == (10, 2, 32)
    assert loop.products == 16 * 8 * 16 + 16 * 8 * 8
    assert loop.cycles["shared memory"] == 4 * (4 + 4 + 2)


@disassembler
@pytest.mark.parametrize("tile", REGISTER_TILES)
@pytest.mark.parametrize("architecture", LEAST)
def test_the_main_loops_are_arithmetic(tile, architecture):
    """Per 256 FFMA few other instructions, no division, and a high ceiling of the FMA unit.

    NVRTC's versions differ by a few instructions. Before the tile had 8 x 8 results a thread and
    counted digits, these were 451 to 769 instructions, of which 12 to 36 belonged to divisions.
    """
    file, defines, kernels_of_it = cuda_tables.TILES[tile]
    for kernel in kernels_of_it:
        loop = cuda_tables.slowest_loop(file, kernel, architecture, defines)
        assert 256 * loop.instructions / loop.arithmetic <= 330, kernel
        assert loop.ceiling(architecture) >= LEAST[architecture], kernel
        assert loop.divisions == 0


@disassembler
def test_the_tiles_have_the_same_code_for_sm_86_and_sm_89():
    """So what a test shows of sm_89 holds for sm_86; the names of conversions alone differ."""
    tiles = [file for file in cuda.files() if file.name.startswith(("conv4", "conv6", "linears"))]
    assert len(tiles) == 9
    for file in tiles:
        of_86, of_89 = (nvrtc.compile(file, architecture) for architecture in (86, 89))
        assert of_86.kernels == of_89.kernels
        if file.name in ("conv4_gradients.cu", "conv6_tensor.cu"):
            codes = [disassembly.disassemble(program.cubin) for program in (of_86, of_89)]
            names = [
                {kernel: [disassembly.name(at) for at in code[kernel]] for kernel in code}
                for code in codes
            ]
            assert names[0] == names[1]


@disassembler
@pytest.mark.parametrize("architecture", TWO)
def test_the_main_loops_of_attention(architecture):
    """A key costs 16, 24 or 32 FFMA for y, gq, or gk and gv, and few other instructions."""
    program = nvrtc.compile(cuda.FOLDER / "attention.cu", architecture)
    code = disassembly.disassemble(program.cubin)
    for kernel, keys, most in (("attention", 8, [27]), ("attention_gradients", 4, [34, 43])):
        loops = mainloop.main_loops(code[kernel], architecture)
        assert len(loops) == len(most)
        for loop, instructions in zip(loops, most, strict=True):
            assert loop.instructions / keys <= instructions


@disassembler
@pytest.mark.parametrize("columns", cuda_tables.TENSOR_COLUMNS)
@pytest.mark.parametrize(
    ("kind", "architecture", "most"),
    [
        ("half", 75, 155), ("half", 90, 130), ("half, x stored", 75, 127),
        ("half, x stored", 80, 78), ("half, x stored", 90, 80), ("TF32", 80, 185),
        ("TF32", 90, 187),
    ],
)  # fmt: skip
def test_the_main_loops_of_tensor_cores(kind, architecture, most, columns):
    """The forward's instructions for 32 x 32 results, 16 deep; with mma.h these were 121 to 305."""
    defines = (*cuda_tables.TENSOR[kind][0], *cuda_tables.TENSOR_COLUMNS[columns][0])
    for kernel in cuda_tables.CONVOLUTION:
        loop = cuda_tables.slowest_loop("conv6_tensor.cu", kernel, architecture, defines)
        assert loop.divisions == 0
        if kernel == "conv2d":
            instructions = cuda_tables.TENSOR_PRODUCTS * loop.instructions / loop.products
            assert instructions <= most


@disassembler
@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
@pytest.mark.parametrize(("kind", "most"), [("half", 2), ("half, x stored", 2), ("TF32", 1.7)])
def test_the_main_loop_of_tensor_cores_is_near_its_floor(card, kind, most):
    if kind == "TF32" and not card.tf32:
        return
    for C in (32, 64):
        loop, floor = cuda_tables.tensor_times(card, Layer(128, 28, C, 32), kind)
        assert loop <= most * floor
