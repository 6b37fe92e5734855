"""Kernels read and write no vector of an array whose address is not a multiple of its size.

Race mode refuses such a vector (tests/emulator/test_race_rules.py), of 8 bytes as well as of 16.
"""

import numpy as np
import pytest
from cuda_checks import draw, flat, needs_compiler

from minddpm.kernels import cuda
from minddpm.kernels.cuda import ladder, shortcut
from minddpm.kernels.emulator import cupy_on_cpu
from minddpm.kernels.emulator.cupy_on_cpu.cuda import emulation
from minddpm.kernels.shapes import SAME

pytestmark = [needs_compiler, pytest.mark.usefixtures("emulated_kernels")]

IMAGE, PART, WINDOW = (2, 3, 3, 8), (2, 3, 3, 4), (3, 3, 8, 8)
ROWS, MATRIX = (2, 5, 8), (8, 8)
SIZES = ladder.Sizes.of((np.empty(IMAGE),), WINDOW, 1, SAME)


def forward(x1, x2, w, bias, shift, extra, y):
    ladder.forward(SIZES, (x1, x2), w, bias, y, shift=shift, extra=extra)
    return y


def backward(gy, x1, x2, w, partial1, partial2):
    return ladder.backward(SIZES, gy, (x1, x2), w, partial=(partial1, partial2))


def transposed(x, w, bias, y):
    ladder.transposed(SIZES, x, w, bias, y)
    return y


def linears(x, w1, w2, b1, b2):
    return cuda.linears(x, [w1, w2], [b1, b2])


def linears_backward(gy1, gy2, x, w1, w2, partial):
    return cuda.linears_backward([gy1, gy2], x, [w1, w2], partial)


def convolved(h, w, b, shift, x1, x2, w_2, b_2):
    return shortcut.convolved(h, w, b, shift, (x1, x2), w_2, b_2)


def gradients(gy, h, w, x1, x2, w_2, partial1, partial2):
    return shortcut.gradients(gy, h, w, (x1, x2), w_2, (partial1, partial2))


SHAPES = {  # of all arguments of a function
    forward: (PART, PART, WINDOW, 8, (2, 8), IMAGE, IMAGE),
    backward: (IMAGE, PART, PART, WINDOW, PART, PART),
    transposed: (IMAGE, WINDOW, 8, IMAGE),
    linears: (ROWS, MATRIX, MATRIX, 8, 8),
    linears_backward: (ROWS, ROWS, ROWS, MATRIX, MATRIX, ROWS),
    convolved: (IMAGE, WINDOW, 8, (2, 8), PART, PART, MATRIX, 8),
    gradients: (IMAGE, IMAGE, WINDOW, PART, PART, MATRIX, PART, PART),
}


def moved(a):
    """Return a device array of the same numbers, at 4 bytes past a multiple of 16."""
    shifted = cupy_on_cpu.asarray(np.append(np.float32(0), a.ravel()))[1:].reshape(a.shape)
    assert shifted.data.ptr % 16 == 4
    return shifted


@pytest.mark.parametrize("function", SHAPES, ids=lambda function: function.__name__)
def test_an_array_that_is_not_aligned(monkeypatch, function):
    monkeypatch.setattr(emulation, "mode", "race")
    arrays = draw(0, *SHAPES[function])

    def results(*moved_ones):
        how = (moved if i in moved_ones else cupy_on_cpu.asarray for i in range(len(arrays)))
        on_device = (place(a) for place, a in zip(how, arrays, strict=True))
        return [a.get() for a in flat(function(*on_device))]

    expected = results()
    for i in range(len(arrays)):
        for result, wanted in zip(results(i), expected, strict=True):
            np.testing.assert_array_equal(result, wanted)


def test_weights_for_one_channel_that_are_not_aligned(monkeypatch):
    """A tile computes the convolution, which takes the sums in another order."""
    monkeypatch.setattr(emulation, "mode", "race")
    x, w, b = map(cupy_on_cpu.asarray, draw(0, IMAGE, (3, 3, 8, 1), 1))
    expected = cuda.conv2d(x, w, b, 1, SAME).get()
    y = cuda.conv2d(x, moved(w.get()), b, 1, SAME).get()
    np.testing.assert_allclose(y, expected, atol=1e-5)


@pytest.mark.parametrize("C", [16, 20])  # 32 and 40 bytes of each pixel
def test_channels_stored_in_16_bits(monkeypatch, C):
    monkeypatch.setattr(emulation, "mode", "race")
    x, w, gy = map(cupy_on_cpu.asarray, draw(0, (2, 3, 3, C), (3, 3, C, 8), IMAGE))
    s = ladder.Sizes.of((x,), w.shape, 1, SAME)

    def results(x):
        y, rung = cupy_on_cpu.empty(IMAGE, "float32"), ladder.RUNGS["6 tensor cores, half"]
        ladder.forward(s, (x,), w, None, y, rung=rung)
        return y, *flat(ladder.backward(s, gy, (x,), w, rung=rung))

    for stored, wanted in zip(results(x.astype("float16")), results(x), strict=True):
        np.testing.assert_array_equal(stored.get(), wanted.get())
