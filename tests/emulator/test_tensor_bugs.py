"""Bugs planted in the tile on tensor cores (tensor.cuh) are reported or visible.

Missing waits, absent lanes and wrong addresses are reported in race mode. A wrong index into a
fragment is no wrong access: the numbers are there, in another lane's place, and the result alone is
wrong.
"""

import numpy as np
import pytest
from cuda_checks import draw, needs_compiler
from emulated import CUDA, THREAD, line_of
from roundings import to_half, to_tf32

from minddpm.kernels import reference
from minddpm.kernels.cuda.ladder import Sizes
from minddpm.kernels.emulator import EmulatorError, Library, device_array, device_empty

pytestmark = needs_compiler
FILE, NULL = "tensor.cuh", np.uint64(0)

# Macros, the type and the rounding of x, the tile of a block and its threads.
STORED = "#define STORED 1\n", np.float16, to_half, (64, 64), 128
TF32 = "#define TF32 1\n#define COLUMNS 32\n", np.float32, to_tf32, (128, 32), 64


def error(right="", wrong="", mode="plain", order=0, kind=STORED):
    """Return the largest error of a small convolution with a bug in it."""
    defines, stored, rounded, (rows, columns), threads = kind
    tile = (CUDA / FILE).read_text()
    assert right in tile, "the tile has changed: plant the bug elsewhere"
    source = f'{defines}#line 1\n{tile.replace(right, wrong, 1)}\n#include "conv2d.cuh"\n'
    library = Library(source, CUDA / FILE, mode)
    x, w = draw(0, (2, 9, 9, 8), (3, 3, 8, 40))
    s = Sizes.of((x,), w.shape, 1, ((1, 1), (1, 1)))
    y = device_empty((2, 9, 9, 40))
    arrays = device_array(x.astype(stored)), NULL, np.int32(8), device_array(w), *(NULL,) * 3, y
    grid, arguments = (-(-s.pixels // rows), -(-40 // columns)), (*arrays, *map(np.int32, (*s, 1)))
    library.launch("conv2d", grid, (threads,), arguments, order=order)
    return np.abs(y - reference.conv2d(rounded(x), rounded(w), None, 1, ((1, 1), (1, 1)))).max()


@pytest.mark.parametrize("kind", [STORED, TF32], ids=["stored", "TF32"])
@pytest.mark.parametrize("mode", ["plain", "race"])
def test_without_a_bug(mode, kind):
    assert error(mode=mode, kind=kind) < 1e-4


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("wrong", ["", "cp_async_wait<2>();"])
def test_a_missing_wait(wrong, order):
    right = "cp_async_wait<1>();"
    assert not error(right, wrong, order=order) < 1  # NaN
    read, copy = (f"{FILE}:{line_of(FILE, at)}" for at in ("ldmatrix_x4(to", "cp_async16("))
    message = rf"unfinished: {read}: {THREAD} reads 16 bytes .* to which {copy}: .*no cp_async_wait"
    with pytest.raises(EmulatorError, match=message):
        error(right, wrong, "race", order)


@pytest.mark.parametrize("right", ["cp_async_wait<1>();", "cp_async_commit();"])
def test_a_missing_wait_for_numbers_of_tf32(right):
    read = f"{FILE}:{line_of(FILE, '*(const uint4*)&tile[at]')}"
    with pytest.raises(EmulatorError, match=f"unfinished: {read}"):
        error(right, "", "race", 0, TF32)


def test_a_missing_commit():
    with pytest.raises(EmulatorError, match=f"unfinished: {FILE}:.* to which {FILE}:"):
        error("cp_async_commit();", "", "race")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("deep(lane / 8)));", "deep(lane / 8)) + 4);", "ROW that does not begin at a multiple"),
        ("(at / PIECE ^ turn)", "((at / PIECE ^ turn) + 1)", "out of bounds|race|uninitialised"),
        (
            " mma_m16n8k16_f16(",
            " if (threadIdx.x % 32) mma_m16n8k16_f16(",
            "while others wait for it",
        ),
    ],
)
def test_wrong_addresses_and_absent_lanes(right, wrong, message):
    with pytest.raises(EmulatorError, match=message.replace("ROW", "loads a row")):
        error(right, wrong, "race")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("{column[0], column[1]}", "{column[1], column[0]}"),
        ("rows[i / 4 % 2]", "rows[0]"),
        ("lane / 4 + j / 2 % 2 * 8", "lane / 4 + j % 2 * 8"),
        ("ldmatrix_x4_trans(to", "ldmatrix_x4(to"),
        ("row = lane % 8", "row = (lane + 1) % 8"),
    ],
)
def test_wrong_fragments_give_wrong_results(right, wrong):
    assert not error(right, wrong) < 0.1


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("lane / 4 * 4, d", "lane % 4 * 4, d"),
        ("d + j * PIECE + lane % 4", "d + j * PIECE + 3 - lane % 4"),
        ("is_b ? 2 : 1, m", "is_b ? 1 : 2, m"),
        ("m = is_b ? j : 2 * j", "m = is_b ? 1 - j : 2 * j"),
        ("i / 32 * 32 + i % 8 * 4 + i % 32 / 8", "i"),
        ("down() + 4 * i, d", "down(), d"),
        ("rows[i / 4 % 2]", "rows[0]"),
    ],
)
def test_wrong_fragments_of_tf32_give_wrong_results(right, wrong):
    assert not error(right, wrong, kind=TF32) < 0.1


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("to[j / 4][j % 4] = as_read(to[j / 4][j % 4])", ""),
        ("0xff800000", "0x7f800000"),
        ("1.0f / 2048", "1.0f / 1024"),
    ],
)
def test_wrong_rounding_to_tf32_is_visible(right, wrong):
    assert error(right, wrong, kind=TF32) > 1e-4
