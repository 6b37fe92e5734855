"""Working memory: one buffer that grows and is used again, and copies into and out of it."""

import ctypes

import numpy as np
from numba import carray, get_num_threads, njit, types
from numba.extending import intrinsic, register_jitable

from minddpm.kernels.cpu.vector import BYTES, Emitter, W, kernel

_buffers: dict[int, np.ndarray] = {}


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


def workspace(floats: int, slot: int = 0) -> np.ndarray:
    """Uninitialised float32 [threads, at least `floats`], rows on their own cache lines.

    The same memory at every call with the same slot: a kernel is done with it when it returns. So
    kernels run one after the other: two Python threads must not call them at the same time.
    """
    threads = get_num_threads()
    width = -(-floats // 16) * 16
    size = threads * width + 16
    buffer = _buffers.get(slot)
    if buffer is None or buffer.size < size:
        buffer = _buffers[slot] = np.empty(size, np.float32)
    start = (-buffer.ctypes.data // 4) % 16
    return buffer[start : start + threads * width].reshape(threads, width)


@register_jitable
def pairs(C: int) -> int:
    """Blocks of W channels that hold C: an even number, as the register tile takes two."""
    return 2 * -(-C // (2 * W))


@intrinsic
def pointer(typing_context, address):
    """An int64 address as a pointer, which carray makes an array of."""

    def codegen(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), codegen


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


@njit(inline="always")
def copy_in(x, n, to, top, left, PH, PW, Cp):
    """Image n of x [N, H, W, C] to (top, left) of a picture [PH, PW, Cp] at address `to`.

    What lies outside that picture is left out; the picture's border and channels beyond C stay.
    """
    _, H, WX, C = x.shape
    for i in range(min(H, PH - top)):
        width = min(WX, PW - left)
        at = to + ((i + top) * PW + left) * Cp * 4
        if Cp == C:
            copy((x[n, i].ctypes.data, at, width * C // W))
        else:
            row = carray(pointer(at), (width, Cp), np.float32)
            for j in range(width):
                for c in range(C):
                    row[j, c] = x[n, i, j, c]


@njit(inline="always")
def copy_out(source, x, n, top, left, PW, Cp):
    """Image n of x [N, H, W, C] from (top, left) of a picture [.., PW, Cp] at address `source`."""
    _, H, WX, C = x.shape
    for i in range(H):
        at = source + ((i + top) * PW + left) * Cp * 4
        if Cp == C:
            copy((at, x[n, i].ctypes.data, WX * C // W))
        else:
            row = carray(pointer(at), (WX, Cp), np.float32)
            for j in range(WX):
                for c in range(C):
                    x[n, i, j, c] = row[j, c]
