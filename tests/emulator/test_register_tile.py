"""Rung 4's tile: as a T4 compiles it, and bugs planted in its copies are reported or visible."""

from functools import cache

import numpy as np
import pytest
from cuda_checks import draw, needs_compiler
from emulated import CUDA

from minddpm.kernels import reference
from minddpm.kernels.cuda import ladder
from minddpm.kernels.cuda.ladder import Sizes
from minddpm.kernels.emulator import EmulatorError, Library, device_array, device_empty

pytestmark = needs_compiler
TILE, NULL = "product.cuh", np.uint64(0)
T4 = "#undef __CUDA_ARCH__\n#define __CUDA_ARCH__ 750\n"


@cache
def library(name, right, wrong, mode, before):
    """Return rung 4's file with a kernel and a bug in its tile: `wrong` in place of `right`."""
    file = CUDA / ladder.RUNGS["4 register tile"].kernel(name)[0]
    tile = (CUDA / TILE).read_text()
    assert right in tile, "the tile has changed: plant the bug elsewhere"
    tile = tile.replace(right, wrong, 1) if right else tile
    source = file.read_text().replace(f'#include "{TILE}"', tile)
    return Library(f"{before}#define COLUMNS 32\n{source}", file, mode)


def errors(right="", wrong="", mode="plain", order=0, before="", C=8):
    """Return the largest errors of y, gx and gw of a small convolution."""
    x, w, gy = draw(0, (1, 9, 9, C), (3, 3, C, 36), (1, 9, 9, 36))
    s = Sizes.of((x,), w.shape, 1, ((1, 1), (1, 1)))
    last = tuple(map(np.int32, (*s, int(C % 4 == 0))))
    x, w, gy = map(device_array, (x, w, gy))
    y, gx, gw = (device_empty(array.shape) for array in (gy, x, w))

    def launch(name, *arguments):
        kernels = library(name, right, wrong, mode, before)
        kernels.launch(name, (1, 2, 1), (64,), arguments, order=order)

    launch("conv2d", x, NULL, np.int32(C), w, *(NULL,) * 3, y, *last, NULL, NULL)
    launch("conv2d_gradient_x", gy, w, *(NULL,) * 3, gx, NULL, np.int32(C), *last)
    launch("conv2d_gradient_w", gy, x, NULL, np.int32(C), gw, *last)
    exact = [array.astype(float) for array in (x, w, gy)]
    expected_y = reference.conv2d(*exact[:2], None, 1, ((1, 1), (1, 1)))
    expected_gx, expected_gw, _ = reference.conv2d_backward(
        exact[2], exact[0], exact[1], 1, ((1, 1), (1, 1))
    )
    expected = expected_y, expected_gx, expected_gw
    return [np.abs(a - b).max() for a, b in zip((y, gx, gw), expected, strict=True)]


@pytest.mark.parametrize("before", ["", T4], ids=["A100", "T4"])
@pytest.mark.parametrize("C", [8, 5])
def test_without_a_bug(before, C):
    for order in range(3):
        assert max(errors(before=before, C=C, order=order)) < 1e-4
    assert max(errors(before=before, C=C, mode="race")) < 1e-4


def test_a_missing_wait():
    right = "cp_async_wait<STAGES - 2>();"
    assert not max(errors(right, order=1)) < 1  # NaN
    with pytest.raises(EmulatorError, match=r"unfinished: .*no cp_async_wait"):
        errors(right, mode="race")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("side.line_in_tile(0), side.depth_in_tile(0)", "side.line_in_tile(0), 0"),
        ("place(number(0, i), at)", "place(number(0, i), 0)"),
    ],
)
def test_a_wrong_place(right, wrong):
    assert not max(errors(right, wrong)) < 1e-2
