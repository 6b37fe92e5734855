"""What threads need to meet in memory: atomic loads and stores, a clock, sleeping and waking.

The instructions are LLVM's, the rest are calls of the C library. `at` is the address of an int64,
aligned to 8 bytes. All accesses are sequentially consistent: all threads see them in one order.
"""

import platform
import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from minddpm.kernels.cpu.vector.instructions import I32, I64

ORDER = "seq_cst"
MACHINE = platform.machine().lower()
IS_X86, IS_ARM = MACHINE in ("x86_64", "amd64"), MACHINE in ("aarch64", "arm64")
# Linux: futex(2). macOS: the calls under its C++ library's wait and notify, not public, but stable;
# the pool has not run there yet. NUMBA_THREADING_LAYER=workqueue avoids it.
HAS_WAITING = sys.platform in ("linux", "darwin") and (IS_X86 or IS_ARM)

FUTEX = 202 if IS_X86 else 98  # the number of the system call
FUTEX_WAIT, FUTEX_WAKE = 0 | 128, 1 | 128  # 128: no other process waits there
ULOCK_WAIT, ULOCK_WAKE = 1, 1 | 0x100  # compare 32 bits and wait; wake all
CLOCK_MONOTONIC = 6 if sys.platform == "darwin" else 1


def _pointer(builder, address):
    return builder.inttoptr(address, I64.as_pointer())


def _library(builder, name, result, arguments, var_arg=False):
    """Return a function of the C library."""
    known = builder.module.globals.get(name)
    return known or ir.Function(
        builder.module, ir.FunctionType(result, arguments, var_arg=var_arg), name
    )


def _futex(builder, at, operation, value):
    """Call futex(at, operation, value, 0, 0, 0)."""
    call = _library(builder, "syscall", I64, [I64], var_arg=True)
    number, operation, zero = (ir.Constant(I64, n) for n in (FUTEX, operation, 0))
    builder.call(call, [number, at, operation, value, zero, zero, zero])


@intrinsic
def load(typing_context, at):
    """Return the int64 at address `at`."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_pointer(builder, args[0]), ORDER, 8)

    return types.int64(types.int64), codegen


@intrinsic
def store(typing_context, at, value):
    """Store an int64 at address `at`."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[1], _pointer(builder, args[0]), ORDER, 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def add(typing_context, at, value):
    """Add to the int64 at address `at`, and return what was there before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", _pointer(builder, args[0]), args[1], ORDER)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def exchange(typing_context, at, old, new):
    """Store `new` at address `at` if `old` is there, and return whether it was."""

    def codegen(context, builder, signature, args):
        result = builder.cmpxchg(_pointer(builder, args[0]), args[1], args[2], ORDER)
        return builder.extract_value(result, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def lowest_bit(typing_context, x):
    """Return the number of the lowest bit that is set in x, which must not be 0."""

    def codegen(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), codegen


@intrinsic
def pause(typing_context):
    """Tell the core that this thread is spinning, so that its twin on that core may run."""

    def codegen(context, builder, signature, args):
        name, kinds = ("llvm.x86.sse2.pause", []) if IS_X86 else ("llvm.aarch64.hint", [I32])
        kind = ir.FunctionType(ir.VoidType(), kinds)
        builder.call(
            cgutils.get_or_insert_function(builder.module, kind, name),
            [ir.Constant(I32, 1) for _ in kinds],  # 1: yield
        )
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def nanoseconds(typing_context):
    """Return the time of a clock that never goes back."""

    def codegen(context, builder, signature, args):
        now = cgutils.alloca_once(builder, ir.ArrayType(I64, 2))  # struct timespec
        kinds = [I32, now.type]
        clock = _library(builder, "clock_gettime", I32, kinds)
        builder.call(clock, [ir.Constant(I32, CLOCK_MONOTONIC), now])
        seconds, rest = (builder.extract_value(builder.load(now), i) for i in range(2))
        return builder.add(builder.mul(seconds, ir.Constant(I64, 10**9)), rest)

    return types.int64(), codegen


@intrinsic
def wait(typing_context, at, value):
    """Sleep until wake(at) is called, unless the 32 bits at address `at` are not those of value.

    May return earlier: the caller looks again.
    """

    def codegen(context, builder, signature, args):
        if sys.platform == "darwin":
            sleep = _library(builder, "__ulock_wait", I32, [I32, I64, I64, I32])
            low = builder.zext(builder.trunc(args[1], I32), I64)
            builder.call(sleep, [ir.Constant(I32, ULOCK_WAIT), args[0], low, ir.Constant(I32, 0)])
        else:
            _futex(builder, args[0], FUTEX_WAIT, args[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def wake(typing_context, at, most):
    """Wake up to `most` threads that sleep at address `at` (macOS: all)."""

    def codegen(context, builder, signature, args):
        if sys.platform == "darwin":
            call = _library(builder, "__ulock_wake", I32, [I32, I64, I64])
            builder.call(call, [ir.Constant(I32, ULOCK_WAKE), args[0], ir.Constant(I64, 0)])
        else:
            _futex(builder, args[0], FUTEX_WAKE, args[1])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen
