"""Vector instructions by hand: LLVM instructions emitted from inside Numba functions.

Numba compiles a plain loop well, but LLVM decides whether the loop becomes vector code, and loops
over channels-last images often do not. So a kernel states its instructions: "load LANES floats,
multiply-add, store". LANES depends on the machine:

    AVX-512   LANES = 16, 32 registers
    AVX2      LANES = 8,  16 registers
    NEON      LANES = 4,  32 registers       (and other machines)

A kernel is a Numba intrinsic whose arguments are addresses and counts (64-bit integers), and whose
body calls the methods of `Emitter`. All addresses are in bytes.
"""

import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

FLOAT = ir.FloatType()
I32 = ir.IntType(32)
I64 = ir.IntType(64)


def _host_bits() -> int:
    """Return the vector width in bits; MINDDPM_VECTOR_BITS limits it, as if on another machine."""
    features = llvm.get_host_cpu_features()
    bits = 512 if features.get("avx512f") else 256 if features.get("avx2") else 128
    return min(bits, int(os.environ.get("MINDDPM_VECTOR_BITS", "512")))


LANES = _host_bits() // 32  # floats in a vector
BYTES = 4 * LANES
# The register tile of the product: ROWS x 2 accumulators, 2 vectors of B and one broadcast number
# of A must fit into the registers.
ROWS = {16: 14, 8: 6, 4: 8}[LANES]

VECTOR = ir.VectorType(FLOAT, LANES)
INTS = ir.VectorType(I32, LANES)


class Emitter:
    """Writes instructions into one function; every method returns the value that it computes."""

    def __init__(self, builder: ir.IRBuilder):
        self.b = builder

    # numbers and addresses

    def const(self, x: float) -> ir.Value:
        """Return x in every lane."""
        return ir.Constant(VECTOR, [ir.Constant(FLOAT, float(x))] * LANES)

    def offset(self, address: ir.Value, by: ir.Value | int) -> ir.Value:
        """Return address + by, in bytes."""
        if isinstance(by, int):
            by = ir.Constant(I64, by)
        return self.b.add(address, by)

    def _pointer(self, address: ir.Value, by: ir.Value | int, kind: ir.Type) -> ir.Value:
        return self.b.inttoptr(self.offset(address, by), kind.as_pointer())

    # memory

    def load(self, address: ir.Value, by: ir.Value | int = 0) -> ir.Value:
        """Load the LANES floats at address + by."""
        return self.b.load(self._pointer(address, by, VECTOR), align=4)

    def store(self, value: ir.Value, address: ir.Value, by: ir.Value | int = 0) -> None:
        self.b.store(value, self._pointer(address, by, VECTOR), align=4)

    def prefetch_to_write(self, address: ir.Value) -> None:
        """Ask for the cache line at this address, which will be written."""
        pointer = self._pointer(address, 0, ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        module, name = self.b.function.module, "llvm.prefetch.p0"
        function = module.globals.get(name) or ir.Function(module, kind, name)
        write, level_2, data = (ir.Constant(I32, n) for n in (1, 2, 1))
        self.b.call(function, [pointer, write, level_2, data])

    def store_one(self, value: ir.Value, address: ir.Value, by: ir.Value | int = 0) -> None:
        """Store the first lane alone."""
        one = self.b.extract_element(value, ir.Constant(I32, 0))
        self.b.store(one, self._pointer(address, by, FLOAT), align=4)

    def broadcast(self, address: ir.Value, by: ir.Value | int = 0) -> ir.Value:
        """Load one float into every lane."""
        one = self.b.load(self._pointer(address, by, FLOAT), align=4)
        undefined = ir.Constant(VECTOR, ir.Undefined)
        first = self.b.insert_element(undefined, one, ir.Constant(I32, 0))
        return self.b.shuffle_vector(first, undefined, ir.Constant(INTS, [0] * LANES))

    # arithmetic

    def add(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.b.fadd(a, b)

    def sub(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.b.fsub(a, b)

    def mul(self, a: ir.Value, b: ir.Value) -> ir.Value:
        return self.b.fmul(a, b)

    def fma(self, a: ir.Value, b: ir.Value, c: ir.Value) -> ir.Value:
        """Return a b + c, rounded once."""
        return self.call("fma", a, b, c)

    def maximum(self, a: ir.Value, b: ir.Value) -> ir.Value:
        """Return the larger one in each lane; nan if a is nan."""
        return self.b.select(self.b.fcmp_ordered("<", a, b), b, a)

    def across(self, combine: Callable[..., ir.Value], x: ir.Value) -> ir.Value:
        """Combine all lanes into every lane: halves, quarters, ... in a fixed order."""
        step = LANES // 2
        while step:
            rotated = ir.Constant(INTS, [(lane + step) % LANES for lane in range(LANES)])
            x = combine(x, self.b.shuffle_vector(x, x, rotated))
            step //= 2
        return x

    def call(self, name: str, *args: ir.Value) -> ir.Value:
        """Call the LLVM intrinsic of this name for vectors, such as fma or floor."""
        module, full = self.b.function.module, f"llvm.{name}.v{LANES}f32"
        function = module.globals.get(full) or ir.Function(
            module, ir.FunctionType(VECTOR, [VECTOR] * len(args)), full
        )
        return self.b.call(function, args)

    def exp(self, x: ir.Value) -> ir.Value:
        """Return e^x with a relative error of about 1e-7, clipped to 2^+-126; nan stays nan."""
        y = self.mul(x, self.const(1.4426950408889634))  # log2(e)
        # The exponent bits' limit; 1 / (1 + e^-x) becomes 0 or 1 in float32 long before it.
        edge = self.const(126)
        return self.exp2(self.b.select(self.b.fcmp_ordered(">", y, edge), edge, y))

    def exp2(self, y: ir.Value) -> ir.Value:
        """Return 2^y for y <= 126, at least 2^-126, with relative error 1e-7; nan stays nan.

        y = n + f with n integer and |f| <= 1/2. 2^f is the Taylor polynomial, the sum of
        (f ln 2)^k / k!; the first omitted term is below 1e-8. n is added to the exponent bits.
        """
        y = self.maximum(y, self.const(-126))
        n = self.call("rint", y)
        f = self.sub(y, n)
        power = self.const(0.00015403530393381608)
        for c in (
            0.0013333558146428443,
            0.009618129107628477,
            0.05550410866482158,
            0.24022650695910072,
            0.6931471805599453,
            1.0,
        ):
            power = self.fma(power, f, self.const(c))
        exponent = self.b.shl(self.b.fptosi(n, INTS), ir.Constant(INTS, [23] * LANES))
        return self.b.bitcast(self.b.add(self.b.bitcast(power, INTS), exponent), VECTOR)

    def sigmoid(self, x: ir.Value) -> ir.Value:
        """Return 1 / (1 + e^-x)."""
        return self.b.fdiv(
            self.const(1), self.add(self.exp(self.sub(self.const(0), x)), self.const(1))
        )

    # between lanes

    def shuffle(self, a: ir.Value, b: ir.Value, lanes: Sequence[int]) -> ir.Value:
        """Return a vector whose lane i is lane lanes[i] of a followed by b."""
        return self.b.shuffle_vector(a, b, ir.Constant(ir.VectorType(I32, len(lanes)), [*lanes]))

    def load_parts(self, addresses: Sequence[ir.Value]) -> ir.Value:
        """Load LANES floats from one address, or LANES / 2 from each of two, side by side."""
        kind = ir.VectorType(FLOAT, LANES // len(addresses))
        parts = [self.b.load(self._pointer(a, 0, kind), align=4) for a in addresses]
        return parts[0] if len(parts) == 1 else self.shuffle(*parts, range(LANES))

    def store_part(self, value: ir.Value, first: int, count: int, address: ir.Value) -> None:
        """Store lanes first .. first + count - 1."""
        part = self.shuffle(value, value, range(first, first + count))
        self.b.store(part, self._pointer(address, 0, part.type), align=4)

    # loops

    def loop(
        self,
        count: ir.Value,
        addresses: Sequence[tuple[ir.Value, ir.Value | int]],
        carried: Sequence[ir.Value],
        body: Callable[[list[ir.Value], list[ir.Value]], list[ir.Value]],
    ) -> list[ir.Value]:
        """Run body `count` (at least 1) times; return the final carried values.

        addresses: (start, step in bytes) pairs. body(addresses, carried) -> new carried values.
        """
        b, function = self.b, self.b.function
        before = b.block
        top, after = function.append_basic_block(), function.append_basic_block()
        b.branch(top)
        b.position_at_end(top)
        left = b.phi(I64)
        left.add_incoming(count, before)
        moving = [b.phi(I64) for _ in addresses]
        for phi, (start, _) in zip(moving, addresses, strict=True):
            phi.add_incoming(start, before)
        values = [b.phi(v.type) for v in carried]
        for phi, value in zip(values, carried, strict=True):
            phi.add_incoming(value, before)

        results = body(list(moving), list(values))
        end = b.block
        fewer = b.sub(left, ir.Constant(I64, 1))
        left.add_incoming(fewer, end)
        for phi, (_, step) in zip(moving, addresses, strict=True):
            phi.add_incoming(self.offset(phi, step), end)
        for phi, value in zip(values, results, strict=True):
            phi.add_incoming(value, end)
        b.cbranch(b.icmp_signed(">", fewer, ir.Constant(I64, 0)), top, after)
        b.position_at_end(after)
        return results

    def tiles(
        self,
        count: ir.Value,
        size: int,
        addresses: Sequence[tuple[ir.Value, ir.Value | int]],
        carried: Sequence[ir.Value],
        body: Callable[[int, list[ir.Value], list[ir.Value]], list[ir.Value]],
    ) -> list[ir.Value]:
        """Like `loop`, but body(n, addresses, carried) handles n items: n = `size`, then n = 1.

        The steps are from item to item, and count may be 0.
        """
        b = self.b
        starts = [start for start, _ in addresses]
        steps = [ir.Constant(I64, x) if isinstance(x, int) else x for _, x in addresses]
        for n in (ir.Constant(I64, size), ir.Constant(I64, 1)):
            times, before = b.udiv(count, n), b.block
            far = [b.mul(n, step) for step in steps]
            with b.if_then(b.icmp_signed(">", times, ir.Constant(I64, 0))):
                pairs = list(zip(starts, far, strict=True))
                results = self.loop(times, pairs, carried, partial(body, n.constant))
                end = b.block
            skipped, carried = carried, [b.phi(value.type) for value in carried]
            for phi, old, new in zip(carried, skipped, results, strict=True):
                phi.add_incoming(old, before)
                phi.add_incoming(new, end)
            starts = [b.add(x, b.mul(times, step)) for x, step in zip(starts, far, strict=True)]
            count = b.urem(count, n)
        return carried


def kernel(body: Callable[..., None]) -> Any:
    """Make body(emitter, a0, a1, ...) callable from Numba functions as name((a0, a1, ...)).

    The arguments are int64: addresses in bytes and counts. The body becomes one
    function in the compiled module, however often it is called there.
    """
    name = f"minddpm_{body.__name__}_{LANES}"

    def codegen(context: Any, builder: ir.IRBuilder, signature: Any, packed: Any) -> ir.Value:
        values = cgutils.unpack_tuple(builder, packed[0])
        module = builder.module
        function = module.globals.get(name)
        if function is None:
            kind = ir.FunctionType(ir.VoidType(), [I64] * len(values))
            function = ir.Function(module, kind, name)
            function.linkage = "internal"
            function.attributes.add("noinline")
            function.attributes.add("nounwind")
            inner = ir.IRBuilder(function.append_basic_block())
            body(Emitter(inner), *function.args)
            inner.ret_void()
        builder.call(function, values)
        return context.get_dummy_value()

    def typing(typing_context: Any, arguments: Any) -> Any:
        return types.void(arguments), codegen

    return intrinsic(typing)
