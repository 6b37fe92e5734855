"""Copies to shared memory that a thread does not wait for (cp.async), in the emulator."""

import numpy as np
import pytest
from cuda_checks import ORDERS, needs_compiler
from emulated import THREAD

from minddpm.kernels.emulator import EmulatorError, Library, device_array, device_empty

pytestmark = needs_compiler

# y[0] = x of another thread, from the first group of copies; y[1 .. 4] = its numbers of the second,
# of which odd threads copy zeros. how: the bug to plant.
COPIES = """#include "ptx.cuh"
extern "C" __global__ void copy(const float* x, float* y, int how) {
    __shared__ __align__(16) float tile[2][256];
    int i = threadIdx.x, other = i ^ 33;  // in the other warp
    if (how == 1) y[i] = tile[0][4 * other] = 1;
    cp_async16(&tile[0][4 * i], x + 4 * i, true);
    cp_async_commit();
    cp_async16(&tile[1][4 * i], x + 256 + 4 * i, i % 2 == 0);
    if (how != 2) cp_async_commit();
    if (how != 3) cp_async_wait<1>();
    if (how != 4) __syncthreads();
    y[i] = tile[0][4 * other];
    if (how == 5) y[i] += tile[1][4 * i];
    if (how == 6) tile[1][4 * i + 3] = 1;
    if (how != 7) cp_async_wait<0>();
    if (how == 8) y[i] += tile[1][4 * other];
    __syncthreads();
    for (int k = 0; k < 4; k++) y[64 * (1 + k) + i] = tile[1][4 * other + k];
}
extern "C" __global__ void address(float* x, int to, int from) {
    __shared__ __align__(16) float tile[12];
    cp_async16(to < 0 ? x : tile + to, from < 0 ? tile : x + from, true);
    cp_async_wait<0>();
}
"""
X = np.arange(512, dtype=np.float32)


def copied(how, mode, order=0):
    """Return y [5, 64]."""
    y = device_empty((5, 64))
    library = Library(COPIES, "copies.cu", mode)
    library.launch("copy", (1,), (64,), (device_array(X), y, np.int32(how)), order=order)
    return np.array(y)


def expected():
    first, second = X.reshape(2, 64, 4).copy()
    second[1::2] = 0
    other = np.arange(64) ^ 33
    return np.vstack([first[other, :1].T, second[other].T])


def line(text):
    """Return the pattern of a message about an access in this line of COPIES."""
    number = next(i for i, line in enumerate(COPIES.splitlines(), 1) if text in line)
    return rf"copies.cu:{number}: {THREAD}"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("mode", ["plain", "race", "profile"])
def test_copies_arrive(mode, order):
    np.testing.assert_array_equal(copied(0, mode, order), expected())


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("how", "error"),
    [
        (1, "(race: COPY|race: EARLY|unfinished: EARLY) writes .*, (to )?which (EARLY|COPY) "),
        (2, "unfinished: READ reads 4 bytes at .* of tile, to which COPY copies: no cp_async_wait"),
        (3, "unfinished: READ reads 4 bytes at .* of tile, to which COPY copies: no cp_async_wait"),
        (4, "(unfinished: READ|race: READ reads .*, which COPY wrote|race: COPY .*, which READ)"),
        (5, "unfinished: MINE reads 4 bytes at .* of tile, to which NEXT copies: no cp_async_wait"),
        (6, "unfinished: LOST writes 4 bytes at .* of tile, to which NEXT copies: no cp_async_wa"),
        (7, "unfinished: LAST reads 4 bytes at .* of tile, to which NEXT copies: no cp_async_wait"),
        (8, "(unfinished: LATE|race: LATE reads .*, which NEXT wrote|race: NEXT .*, which LATE)"),
    ],
)
def test_a_missing_wait_commit_or_barrier(how, error, order):
    places = {
        "COPY": "cp_async16(&tile[0]", "NEXT": "cp_async16(&tile[1]", "EARLY": "how == 1",
        "READ": "y[i] = tile[0][4 * other];", "MINE": "how == 5", "LOST": "how == 6",
        "LATE": "how == 8", "LAST": "for (int k = 0",
    }  # fmt: skip
    for name, text in places.items():
        error = error.replace(name, line(text))
    with pytest.raises(EmulatorError, match=error):
        copied(how, "race", order)


@pytest.mark.parametrize(("how", "rows"), [(2, slice(0, 5)), (3, slice(0, 1)), (7, slice(1, 5))])
def test_before_the_wait_memory_is_as_it_was(how, rows):
    """So that a missing wait gives NaN in the plain mode."""
    y = copied(how, "plain")
    assert np.isnan(y[rows]).any(axis=1).all()
    assert not np.isnan(np.delete(y, rows, axis=0)).any()


@pytest.mark.parametrize(
    ("to", "source", "message"),
    [
        (2, 0, "copies to an address that is not a multiple of 16 bytes"),
        (0, 1, "copies from an address that is not a multiple of 16 bytes"),
        (-1, 0, "copies to an address that is not in shared memory"),
        (0, -1, "copies from shared memory instead of global memory"),
    ],
)
def test_wrong_addresses(to, source, message):
    number = next(i for i, text in enumerate(COPIES.splitlines(), 1) if "to < 0" in text)
    with pytest.raises(EmulatorError, match=f"address: line {number}: {THREAD} {message}"):
        Library(COPIES).launch(
            "address", (1,), (1,), (device_array(X), np.int32(to), np.int32(source))
        )


@pytest.mark.parametrize(
    ("to", "source", "message"),
    [
        (12, 0, "writes 16 bytes at 48 of tile, which has 48 bytes"),
        (0, 512, "reads 16 bytes at 2048 of argument 0, which has 2048 bytes"),
    ],
)
def test_copies_outside_of_an_array(to, source, message):
    with pytest.raises(EmulatorError, match=f"out of bounds: {line('to < 0')} {message}"):
        Library(COPIES, "copies.cu", "race").launch(
            "address", (1,), (1,), (device_array(X), np.int32(to), np.int32(source))
        )
