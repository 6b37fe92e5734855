"""Occupancy, rooflines and their tables: checked by hand and by counting the bytes of arrays."""

import re

import numpy as np
import pytest

import cuda_tables
import sector_table
from cases import CONVOLUTIONS, convolution
from minddpm.commands import cli
from minddpm.errors import InputError
from minddpm.kernels.cuda.analysis import compile as nvrtc
from minddpm.kernels.cuda.analysis.compile import ARCHITECTURES
from minddpm.kernels.cuda.analysis.disassembly import Instructions, count
from minddpm.kernels.cuda.analysis.mainloop import Loop
from minddpm.kernels.cuda.analysis.occupancy import LIMITS, occupancy, resident_blocks
from minddpm.kernels.cuda.analysis.roofline import (
    CARDS,
    Floor,
    Layer,
    crossing,
    direct,
    tensor_cores,
    winograd,
    winograd_seconds,
)
from minddpm.kernels.cuda.analysis.schedule import Block, time
from minddpm.kernels.emulator.profile import Line
from tables import cells, markdown, replace

T4 = CARDS[0]


@pytest.mark.parametrize(
    ("blocks", "multiprocessors", "resident", "expected"),
    [
        ([Block(1, 6)] * 4, 1, 4, 10),  # each alone in its partition, at 60 %
        ([Block(1, 6)] * 8, 1, 8, 12),  # two take turns
        ([Block(1, 6)] * 8, 1, 4, 20),  # one after the other
        ([Block(4, 6)] * 3, 3, 1, 10),
        ([Block(1, 1), Block(1, 1), Block(1, 6)], 2, 1, 7 / 0.6),
        ([Block(1, 6), Block(1, 1), Block(1, 1)], 2, 1, 6 / 0.6),  # the longest first
    ],
)
def test_a_schedule_by_hand(blocks, multiprocessors, resident, expected):
    assert time(blocks, multiprocessors, resident) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("architecture", "threads", "registers", "shared", "blocks", "part"),
    [
        (75, 256, 64, 0, 4, 1.0),  # 64 registers x 1024 threads: all of them
        (75, 256, 65, 0, 3, 0.75),  # 72 are allocated: 7 warps fit in each quarter
        (80, 256, 40, 0, 6, 0.75),  # 12 warps in each quarter, some registers unused
        (75, 32, 16, 0, 16, 0.5),  # blocks
        (86, 32, 16, 0, 16, 1 / 3),
        (89, 32, 16, 0, 24, 0.5),
        (90, 32, 16, 0, 32, 0.5),
        (86, 1024, 32, 0, 1, 2 / 3),  # half a block more would fit
        (80, 1024, 32, 0, 2, 1.0),
        (80, 32, 88, 0, 20, 20 / 64),  # 5 warps in each quarter, not 23 in total
        (75, 128, 32, 32 * 1024, 2, 0.25),  # shared memory
        (75, 128, 32, 32 * 1024 + 1, 1, 0.125),
        (80, 128, 32, 40 * 1024, 4, 0.25),  # 41 KB with the driver's own, of 164 KB
        (80, 128, 32, 40 * 1024 + 1, 3, 0.1875),
        (90, 256, 79, 16896, 3, 0.375),  # the register tile: 6 warps in each quarter
        (90, 1000, 32, 0, 2, 1.0),  # 32 warps, the last one not full
        (90, 1024, 255, 0, 0, 0.0),  # cannot be launched
        (90, 256, 0, 0, 8, 1.0),
    ],
)
def test_occupancy_by_hand(architecture, threads, registers, shared, blocks, part):
    assert resident_blocks(architecture, threads, registers, shared) == blocks
    assert occupancy(architecture, threads, registers, shared) == pytest.approx(part)


def test_every_architecture_has_its_limits():
    assert tuple(LIMITS) == ARCHITECTURES
    assert {card.architecture for card in CARDS} <= set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("architecture", "threads", "sentence"),
    [(70, 256, "sm_70 are not known here: use sm_75, "), (75, 0, "1 to 1024"), (75, 1025, "1 to")],
)
def test_a_block_or_an_architecture_that_does_not_exist(architecture, threads, sentence):
    with pytest.raises(InputError, match=sentence):
        resident_blocks(architecture, threads, 32, 0)


def test_instructions_are_distinguished_by_name():
    opcodes = ["FFMA", "FFMA.RZ", "FADD", "HFMA2.MMA", "IMAD", "NOP", "NOP"]
    opcodes += ["HMMA.16816.F32", "HGMMA.64x64x16.F32", "UTCHMMA"]
    opcodes += ["LDG.E.128.CONSTANT", "LDG.E.64", "LDG.E", "LDCU.128", "LD.E.128"]
    opcodes += ["LDS.U.128", "LDS.128", "LDS", "STG.E.128.SYS", "STG.E", "LDL.64", "STL"]
    assert count([{"opcode": opcode} for opcode in opcodes]) == Instructions(
        total=len(opcodes) - 2,
        fused=2,
        tensor=3,
        wide_loads=1,
        wide_shared_loads=2,
        wide_stores=1,
        local=2,
    )


def test_the_definition_by_hand():
    layer = Layer(128, 28, 32, 32)  # 1.85 GFLOP; x, y 12.8 MB each
    floor = direct(T4, layer, T4.fp32)
    assert floor.arithmetic == pytest.approx(2 * 9 * 32 * 32 * 128 * 784 / 8.1e12)
    assert floor.memory == pytest.approx(4 * (2 * 128 * 784 * 32 + 9 * 32 * 32) / 320e9)
    assert floor.seconds == floor.arithmetic == pytest.approx(228.4e-6, rel=1e-3)
    assert Floor(1.0, 2.0).seconds == 2.0


@pytest.mark.parametrize("shape", [(28, 4, 2), (7, 3, 5), (1, 1, 1)])
def test_operations_equal_the_benchmarks_count(shape):
    assert Layer(2, *shape).flops == convolution(2, *shape).flops


@pytest.mark.parametrize(("H", "tiles"), [(28, 49), (14, 16), (7, 4), (4, 1), (1, 1)])
def test_winograd_counts_each_array_once_each_time(H, tiles):
    N, C, K = 2, 3, 5
    x, y, w, V, U, M = (
        np.empty(shape, np.float32).nbytes
        for shape in [
            (N, H, H, C), (N, H, H, K), (3, 3, C, K),
            (36, N * tiles, C), (36, C, K), (36, N * tiles, K),
        ]
    )  # fmt: skip
    floors = winograd(T4, Layer(N, H, C, K))
    moved = [floor.memory * 320e9 for floor in floors]
    np.testing.assert_allclose(moved, [x + V, w + U, V + U + M, M + y])
    products = 36 * N * tiles * C * K
    np.testing.assert_allclose([f.arithmetic * 8.1e12 for f in floors], [0, 0, 2 * products, 0])
    total = winograd_seconds(T4, Layer(N, H, C, K))
    assert total == pytest.approx(sum(max(floor) for floor in floors))


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.name)
def test_the_crossing_by_algebra(card):
    # With so many images that weights do not matter, each pixel of 28 x 28 costs the definition
    # 18 C^2 operations and F(4x4) 44 C bytes: 13 and 13 in its transforms, 18 in its product.
    assert crossing(card, 10**6, 28) == int(44 / 18 * card.balance) + 1
    # There F(4x4)'s floor falls below the definition's.
    found = crossing(card, 128, 14)
    for channels in (found - 1, found, 2 * found):
        layer = Layer(128, 14, channels, channels)
        below = winograd_seconds(card, layer) < direct(card, layer, card.fp32).seconds
        assert below == (channels >= found)


def test_a_main_loop_of_tensor_cores_by_hand():
    """Tiles of 128 x 32 with a depth of 32, of which an iteration takes 100 cycles."""
    loop = Loop(90, 16, 32 * 32 * 32, {"issue": 90, "shared memory": 100}, 0, 0)
    one = Layer(1, 10, 3, 5)  # 100 rows, a depth of 27, 5 columns: one block of four warps
    card = CARDS[1]
    assert card.clock == pytest.approx(1.41e9, rel=1e-2)
    seconds = tensor_cores(card, one, loop, 1e6, 128, 32, 4)
    assert seconds == pytest.approx(100 / 108 / card.clock)
    many = Layer(100, 16, 32, 33)  # 200 blocks down, 2 across, 9 iterations
    assert tensor_cores(card, many, loop, 1e6, 128, 32, 4) == pytest.approx(seconds * 3600)
    assert tensor_cores(card, one, loop, 1e-3, 128, 32, 4) == pytest.approx(2 * 128 * 32 * 32 / 1e9)


def test_no_crossing():
    assert crossing(T4._replace(fp32=1e6), 128, 28, most=512) is None


@pytest.mark.parametrize("name", ["cards", "floors", "crossings", "schedules"])
def test_the_readme_has_the_tables_of_these_data_sheets(name):
    table = markdown(*cuda_tables.TABLES[name]())
    text = cuda_tables.FILE.read_text()
    assert replace(text, name, table) == text, "python benchmarks/cuda_tables.py --write"
    assert len({len(cells(line)) for line in table.splitlines()}) == 1
    for card in CARDS:
        assert card.name in table
    if name == "floors":
        assert len(table.splitlines()) == 2 + len(CARDS) * len(CONVOLUTIONS)


def test_sectors_by_hand(monkeypatch):
    def line(kernel, space, kind, transactions, ideal):
        return Line(kernel, "a.cu:1", space, kind, 1, 32, transactions, ideal, 1, 32, ())

    lines = [
        line("b", "global", "load", 1000, 500), line("b", "global", "load", 500, 500),
        line("b", "shared", "load", 7, 1), line("b", "global", "atomic", 7, 1),
        line("b", "global", "store", 4, 4), line("a", "global", "store", 5, 4),
    ]  # fmt: skip
    monkeypatch.setattr(sector_table, "profiled_steps", lambda config: lines)
    assert sector_table.sectors()[1] == [
        ["a", "0", "0", "-", "5", "4", "1.25"],
        ["b", "1,500", "1,000", "1.50", "4", "4", "1.00"],
    ]


def test_the_readmes_sectors_are_few():
    text = cuda_tables.FILE.read_text()
    table = text.split("<!-- benchmark:sectors -->\n")[1].split("<!-- /benchmark -->")[0]
    rows = [cells(line) for line in table.splitlines()[2:]]
    assert len(rows) > 20
    wasteful = {row[0] for row in rows if max(float(row[3]), float(row[6])) > 1.3}
    assert wasteful <= {"gradient_w_column"}  # the page says why


def test_the_plot_is_drawn(tmp_path):
    cuda_tables.draw_roofline(tmp_path / "roofline.png")
    assert (tmp_path / "roofline.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flag", "sentence"),
    [("compiled", r'pip install -e "\.\[nvrtc\]"'), ("speeds", "no table 'speeds': choose from")],
)
def test_the_command_names_what_is_missing(flag, sentence, monkeypatch, capsys):
    monkeypatch.setattr(nvrtc, "in_wheels", lambda pattern: None)
    nvrtc.compile.cache_clear()
    nvrtc._nvrtc.cache_clear()
    monkeypatch.setattr("sys.argv", ["cuda_tables.py", "--only", flag])
    assert cli.run(cuda_tables.main) == cli.BAD_INPUT
    assert re.search(sentence, capsys.readouterr().err)
