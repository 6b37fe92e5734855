"""Working memory: one buffer that grows and is used again, and copies into and out of pictures."""

import ctypes

import numpy as np
from numba import carray, get_num_threads, njit, types
from numba.extending import intrinsic, register_jitable

from minddpm.kernels.cpu.vector.instructions import BYTES, Emitter, W, kernel

# A function that is called from tasks (task.py), within one thread.
serial = njit(nogil=True, cache=True)

_buffers: dict[int, np.ndarray] = {}
_byte = ctypes.c_char


def keep_freed_memory() -> None:
    """Ask the C library to keep large freed blocks for the next allocation of that size.

    By default glibc maps every array above 128 KB anew and gives it back when it is freed: the
    kernel then clears each of its pages again, at every layer of every step.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no glibc: its allocator decides
        return
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
    mallopt(M_MMAP_THRESHOLD, 1 << 30)
    mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def workspace(floats: int, slot: int = 0, rows: int | None = None) -> np.ndarray:
    """Uninitialised float32 [threads (or rows), at least `floats`], rows on their own cache lines.

    The same memory at every call with the same slot: a kernel is done with it when it returns. So
    kernels run one after the other: two Python threads must not call them at the same time.
    """
    rows = rows or get_num_threads()
    width = -(-floats // 16) * 16
    buffer = _buffers.get(slot)
    if buffer is None or buffer.size < rows * width:
        buffer = np.empty(rows * width + 16, np.float32)
        buffer = _buffers[slot] = buffer[(-address(buffer) // 4) % 16 :]
    return buffer[: rows * width].reshape(rows, width)


def address(x: np.ndarray | None) -> int:
    """Where the data of x begins, in bytes; 0 for None.

    Kernels take addresses and sizes rather than arrays: Numba would compile another version for
    every combination of read-only and writable ones.
    """
    if x is None:
        return 0
    try:
        return ctypes.addressof(_byte.from_buffer(x))  # four times as fast as what follows
    except (TypeError, ValueError):  # read-only, not contiguous, or empty
        return x.__array_interface__["data"][0]


@register_jitable
def pairs(C: int) -> int:
    """Blocks of W channels that hold C: an even number, as the register tile takes two."""
    return 2 * -(-C // (2 * W))


@register_jitable
def share(n: int, t: int, threads: int) -> int:
    """Where the share of thread t begins when n things are dealt out in order."""
    return n * t // threads


@intrinsic
def pointer(typing_context, address):
    """An int64 address as a pointer, which carray makes an array of."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), codegen


@njit(inline="always")
def floats(at, n):
    """The n floats at an address, as an array."""
    return carray(pointer(at), (n,), np.float32)


@njit(inline="always")
def integers_at(at, n):
    """The n int64 at an address, as an array."""
    return carray(pointer(at), (n,), np.int64)


@kernel
def zero(e: Emitter, at, vectors) -> None:
    """`vectors` (at least 1) vectors of zeros."""

    def one(moving, carried):
        e.store(e.const(0), moving[0])
        return carried

    e.loop(vectors, [(at, BYTES)], [], one)


@kernel
def copy(e: Emitter, source, to, vectors) -> None:
    """`vectors` (at least 1) vectors."""

    def one(moving, carried):
        e.store(e.load(moving[0]), moving[1])
        return carried

    e.loop(vectors, [(source, BYTES), (to, BYTES)], [], one)


@kernel
def add(e: Emitter, a, b, to, vectors) -> None:
    """to = a + b, `vectors` (at least 1) vectors."""

    def one(moving, carried):
        e.store(e.add(e.load(moving[0]), e.load(moving[1])), moving[2])
        return carried

    e.loop(vectors, [(a, BYTES), (b, BYTES), (to, BYTES)], [], one)


@serial
def copy_floats(source, to, n):
    """n floats: whole vectors, then the rest one by one."""
    whole = n // W * W
    if whole:
        copy((source, to, whole // W))
    x, y = floats(source, n), floats(to, n)
    for i in range(whole, n):
        y[i] = x[i]


@serial
def add_floats(a, b, to, n):
    """to = a + b, n floats."""
    whole = n // W * W
    if whole:
        add((a, b, to, whole // W))
    x, y, z = floats(a, n), floats(b, n), floats(to, n)
    for i in range(whole, n):
        z[i] = x[i] + y[i]


@serial
def clear(at, n):
    """n floats of zeros at an address."""
    whole = n // W * W
    if whole:
        zero((at, whole // W))
    floats(at, n)[whole:] = 0


@serial
def copy_pixels(source, to, pixels, C, source_step, to_step):
    """C floats of each of `pixels` neighbouring pixels, which lie the steps (in bytes) apart."""
    if source_step == to_step == 4 * C:
        copy_floats(source, to, pixels * C)
    else:
        for p in range(pixels):
            copy_floats(source + p * source_step, to + p * to_step, C)


@serial
def copy_picture(source, H, WX, C, to, top, left, PH, PW, Cp):
    """A picture [H, WX, C] to (top, left) of a larger one, [PH, PW, Cp].

    What lies outside that picture is left out; its border and its channels beyond C stay.
    """
    for i in range(min(H, PH - top)):
        at = to + ((i + top) * PW + left) * Cp * 4
        copy_pixels(source + i * WX * C * 4, at, min(WX, PW - left), C, 4 * C, 4 * Cp)


@kernel
def column_sum(e: Emitter, at, rows, step, out) -> None:
    """out += the sum of one column of vectors, `rows` (at least 1) of them, `step` bytes apart."""
    (total,) = e.loop(
        rows, [(at, step)], [e.load(out)], lambda moving, acc: [e.add(acc[0], e.load(moving[0]))]
    )
    e.store(total, out)


@serial
def add_columns(at, rows, C, out):
    """out [C] += the sums over the rows of a matrix [rows, C]: the gradient of a bias."""
    whole = C // W * W if rows else 0
    for c in range(0, whole, W):
        column_sum((at + 4 * c, rows, 4 * C, out + 4 * c))
    if whole < C:
        x, sums = floats(at, rows * C), floats(out, C)
        for r in range(rows):
            for c in range(whole, C):
                sums[c] += x[r * C + c]
