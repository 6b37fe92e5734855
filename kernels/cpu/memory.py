"""Working memory: buffers that grow and are reused; copying into and out of images."""

import ctypes
import threading
from typing import Any

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic, register_jitable

from minddpm.kernels.cpu import threads
from minddpm.kernels.cpu.compiled import serial
from minddpm.kernels.cpu.recorder import here
from minddpm.kernels.cpu.vector.instructions import BYTES, LANES, Emitter, kernel


class _Buffers(threading.local):
    """The buffers of this Python thread; they are freed with it."""

    def __init__(self) -> None:
        self.of_slot: dict[int, np.ndarray] = {}


_buffers = _Buffers()
_byte = ctypes.c_char


def keep_freed_memory() -> None:
    """Ask the C library to keep large freed blocks for the next allocation of that size.

    By default glibc maps new pages for every array above 128 KB and unmaps them when it is freed,
    so the operating system clears all these pages again at every layer of every step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # not glibc: no such option
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def empty(shape: int | tuple[int, ...], kind: Any = np.float32) -> np.ndarray:
    """Return an uninitialised array for a result, or for a step on the way to it."""
    recorder = here.recorder
    return np.empty(shape, kind) if recorder is None else recorder.empty(shape, kind)


def workspace(floats: int, slot: int = 0, rows: int | None = None) -> np.ndarray:
    """Return uninitialised float32 [rows, at least `floats`]; rows: by default one for each thread.

    Each row starts at a cache line. Every call with the same slot in the same Python thread returns
    the same memory, which an operation uses until it returns.
    """
    rows = rows or threads.count()
    width = -(-floats // 16) * 16
    of_slot = _buffers.of_slot
    buffer = of_slot.get(slot)
    if buffer is None or buffer.size < rows * width:
        buffer = np.empty(rows * width + 16, np.float32)
        buffer = of_slot[slot] = buffer[(-address(buffer) // 4) % 16 :]
    return buffer[: rows * width].reshape(rows, width)


def address(x: np.ndarray | None) -> int:
    """Return the address of the data of x; 0 for None.

    Kernels take addresses and sizes rather than arrays, because Numba would compile one version for
    every combination of read-only and writable arrays.
    """
    if x is None:
        return 0
    recorder = here.recorder
    if recorder is not None:
        recorder.keep(x)
    try:
        return ctypes.addressof(_byte.from_buffer(x))  # four times as fast as the line below
    except (TypeError, ValueError):  # read-only, not contiguous, or empty
        return x.__array_interface__["data"][0]


@register_jitable
def pairs(C: int) -> int:
    """Return how many blocks of LANES hold C channels, rounded up to even: a tile takes two."""
    return 2 * -(-C // (2 * LANES))


@register_jitable
def share(n: int, piece: int, pieces: int) -> int:
    """Return the first item of a piece when n items are divided among the pieces in order."""
    return n * piece // pieces


@register_jitable
def items(n: int, piece: int, pieces: int) -> range:
    """Return the items of a piece when n items are divided among the pieces in order."""
    return range(n * piece // pieces, n * (piece + 1) // pieces)


@intrinsic
def pointer(typing_context, address):
    """Convert an int64 address to a pointer for carray."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), codegen


@njit(inline="always")
def floats(at, n):
    """Return the n floats at address `at` as an array."""
    return carray(pointer(at), (n,), np.float32)


@njit(inline="always")
def array_at(at, shape, kind=np.float32):
    """Return the array of this shape at address `at`."""
    return carray(pointer(at), shape, kind)


@njit(inline="always")
def integers_at(at, n):
    """Return the n int64 values at address `at` as an array."""
    return carray(pointer(at), (n,), np.int64)


@kernel
def zero(e: Emitter, at, vectors) -> None:
    """Store `vectors` (at least 1) vectors of zeros."""

    def one(moving, carried):
        e.store(e.const(0), moving[0])
        return carried

    e.loop(vectors, [(at, BYTES)], [], one)


@kernel
def write_ahead(e: Emitter, at, vectors) -> None:
    """Ask for the memory of `vectors` (at least 1) vectors that will be written."""

    def one(moving, carried):
        e.prefetch_to_write(moving[0])
        return carried

    e.loop(vectors, [(at, BYTES)], [], one)


@kernel
def copy(e: Emitter, source, to, vectors) -> None:
    """Copy `vectors` (at least 1) vectors."""

    def one(moving, carried):
        e.store(e.load(moving[0]), moving[1])
        return carried

    e.loop(vectors, [(source, BYTES), (to, BYTES)], [], one)


@kernel
def add(e: Emitter, a, b, to, vectors) -> None:
    """Compute to = a + b for `vectors` (at least 1) vectors."""

    def one(moving, carried):
        e.store(e.add(e.load(moving[0]), e.load(moving[1])), moving[2])
        return carried

    e.loop(vectors, [(a, BYTES), (b, BYTES), (to, BYTES)], [], one)


@serial
def copy_floats(source, to, n):
    """Copy n floats: complete vectors, then the rest one by one."""
    in_vectors = n // LANES * LANES
    if in_vectors:
        copy((source, to, in_vectors // LANES))
    x, y = floats(source, n), floats(to, n)
    for i in range(in_vectors, n):
        y[i] = x[i]


@serial
def add_floats(a, b, to, n):
    """Compute to = a + b for n floats."""
    in_vectors = n // LANES * LANES
    if in_vectors:
        add((a, b, to, in_vectors // LANES))
    x, y, z = floats(a, n), floats(b, n), floats(to, n)
    for i in range(in_vectors, n):
        z[i] = x[i] + y[i]


@serial
def clear(at, n):
    """Store n zeros at address `at`."""
    in_vectors = n // LANES * LANES
    if in_vectors:
        zero((at, in_vectors // LANES))
    floats(at, n)[in_vectors:] = 0


@serial
def copy_pixels(source, to, pixels, C, source_step, to_step):
    """Copy C floats of each of `pixels` neighbouring pixels; the steps are in bytes."""
    if source_step == to_step == 4 * C:
        copy_floats(source, to, pixels * C)
    else:
        for p in range(pixels):
            copy_floats(source + p * source_step, to + p * to_step, C)


@serial
def copy_image(source, H, W, C, to, top, left, PH, PW, Cp):
    """Copy an image [H, W, C] to (top, left) of a larger one, [PH, PW, Cp].

    Pixels outside the larger image are omitted. Its border and channels beyond C stay unchanged.
    """
    columns = max(0, min(W, PW - left))
    for i in range(min(H, PH - top)):
        at = to + ((i + top) * PW + left) * Cp * 4
        copy_pixels(source + i * W * C * 4, at, columns, C, 4 * C, 4 * Cp)


@kernel
def column_sum(e: Emitter, at, rows, step, out) -> None:
    """Add to out the sum of a column of `rows` (at least 1) vectors, `step` bytes apart."""
    (total,) = e.loop(
        rows, [(at, step)], [e.load(out)], lambda moving, acc: [e.add(acc[0], e.load(moving[0]))]
    )
    e.store(total, out)


@serial
def add_columns(at, rows, C, out):
    """Add to out [C] the sums over the rows of a matrix [rows, C]: the gradient of a bias."""
    in_vectors = C // LANES * LANES if rows else 0
    for c in range(0, in_vectors, LANES):
        column_sum((at + 4 * c, rows, 4 * C, out + 4 * c))
    if in_vectors < C:
        x, sums = floats(at, rows * C), floats(out, C)
        for r in range(rows):
            for c in range(in_vectors, C):
                sums[c] += x[r * C + c]
