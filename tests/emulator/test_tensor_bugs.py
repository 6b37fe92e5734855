"""Bugs planted in the convolution on tensor cores (conv6_tensor.cu) are reported or visible."""

import numpy as np
import pytest
from cuda_checks import draw, needs_compiler
from emulated import CUDA, THREAD, line_of
from roundings import to_half

from minddpm.kernels import reference
from minddpm.kernels.cuda.ladder import Sizes
from minddpm.kernels.emulator import EmulatorError, Library, device_array, device_empty

pytestmark = needs_compiler
FILE, NULL = "conv6_tensor.cu", np.uint64(0)


def error(right="", wrong="", mode="plain", order=0):
    """Return the largest error of a small convolution of x stored in half, with a bug in it."""
    source = (CUDA / FILE).read_text()
    assert right in source, "the kernel has changed: plant the bug elsewhere"
    source = f"#define STORED 1\n#line 1\n{source.replace(right, wrong, 1)}"
    library = Library(source, CUDA / FILE, mode)
    x, w = draw(0, (1, 9, 9, 8), (3, 3, 8, 8))
    s = Sizes.of((x,), w.shape, 1, ((1, 1), (1, 1)))
    y = device_empty((1, 9, 9, 8))
    arrays = device_array(x.astype(np.float16)), NULL, np.int32(8), device_array(w), *(NULL,) * 3, y
    library.launch("conv2d", (2, 1), (128,), (*arrays, *map(np.int32, (*s, 1))), order=order)
    return np.abs(y - reference.conv2d(to_half(x), to_half(w), None, 1, ((1, 1), (1, 1)))).max()


@pytest.mark.parametrize("mode", ["plain", "race"])
def test_without_a_bug(mode):
    assert error(mode=mode) < 1e-4


@pytest.mark.parametrize("order", [0, 1, 2])
@pytest.mark.parametrize("wrong", ["", "cp_async_wait<2>();"])
def test_a_missing_wait(wrong, order):
    right = "cp_async_wait<1>();"
    assert not error(right, wrong, order=order) < 1  # NaN
    read, copy = (f"{FILE}:{line_of(FILE, at)}" for at in ("ldmatrix_x4(to", "cp_async16("))
    message = rf"unfinished: {read}: {THREAD} reads 16 bytes .* to which {copy}: .*no cp_async_wait"
    with pytest.raises(EmulatorError, match=message):
        error(right, wrong, "race", order)


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
        ("rows[i / 4]", "rows[0]"),
        ("lane / 4 + j % 2 * 8", "lane / 4 + j / 4 * 8"),
        ("ldmatrix_x4_trans(to", "ldmatrix_x4(to"),
        ("row = lane % 8", "row = (lane + 1) % 8"),
    ],
)
def test_wrong_fragments_give_wrong_results(right, wrong):
    assert not error(right, wrong) < 0.1
