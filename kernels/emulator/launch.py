"""Launch the kernels of a .cu file, with arguments checked more strictly than the CUDA driver does.

CuPy passes a scalar at its NumPy size, not at the size the kernel declares: a Python float for a
float parameter has 8 bytes, of which the kernel reads 4. On a GPU the kernel silently reads a wrong
value; here the launch raises an error.
"""

import bisect
import ctypes
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from minddpm.errors import InputError
from minddpm.kernels.emulator import memory
from minddpm.kernels.emulator.arithmetic import operations
from minddpm.kernels.emulator.build import MODES, build, kernels, source_lines, with_source_lines
from minddpm.kernels.emulator.profile import Line, Request

KINDS = {"f": "a floating-point number", "i": "a signed integer", "u": "an unsigned integer"}


_one_at_a_time = threading.Lock()  # runtime.cc keeps its state in globals


class EmulatorError(RuntimeError):
    """A kernel did something that is invalid on a GPU, whether or not a GPU would report it."""


class _Dim3(ctypes.Structure):  # the layout of dim3 in shim.h
    _fields_ = [(name, ctypes.c_uint) for name in "xyz"]

    @classmethod
    def of(cls, sizes: tuple[int, ...]) -> "_Dim3":
        if not 1 <= len(sizes) <= 3 or not all(0 <= n < 1 << 32 for n in sizes):
            raise EmulatorError(f"a grid or block of {sizes} should have one to three sizes")
        return cls(*sizes, *(1,) * (3 - len(sizes)))


class _DeviceArray(ctypes.Structure):  # the layout of DeviceArray in access.h
    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("before", "start", "end", "after")),
        ("poison", ctypes.c_uint64),
        ("argument", ctypes.c_int64),
        ("table", ctypes.c_int64),
    ]  # fmt: skip


class _Cost(ctypes.Structure):  # the layout of Cost in profile.cc
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "place", "shared", "kind", "requests", "bytes", "transactions", "ideal", "worst",
            "lanes", "block", "warp", "lane_bytes", "most", "fewest", "start",
        )
    ] + [("at", ctypes.c_uint64 * 32), ("array", ctypes.c_char * 40)]  # fmt: skip

    def request(self) -> Request:
        """Return the costliest request, with addresses relative to the start of its array."""
        at = tuple(address - self.start if address else None for address in self.at)
        return Request(
            self.array.decode(), self.block, self.warp, self.lane_bytes, self.most, self.fewest, at
        )


class _BasicBlock(ctypes.Structure):  # the layout of BasicBlock in profile.cc
    _fields_ = [("place", ctypes.c_uint64), ("executions", ctypes.c_uint64)]


class Library:
    """The kernels of one .cu source, to be launched by name.

    path: name of the source in messages and debuggers; its .cuh files are in the same folder.
    mode: "plain"; "race", which checks every memory access: it must lie in an array, be aligned,
    not read uninitialised memory, and not race with another thread; or "profile", which counts
    accesses.
    Raises InputError for an unknown mode or if no suitable g++ is found, RuntimeError if the source
    does not compile.
    """

    _stacks: int | None = None  # the address

    def __init__(self, source: str, path: str | Path = "kernel.cu", mode: str = "plain"):
        if mode not in MODES:
            raise InputError(f"there is no mode {mode!r} of the emulator: {', '.join(MODES)}.")
        folder = Path(path).parent
        self.source, self.path, self.mode = source, path, mode
        self.file = build(source, str(path), folder, mode)
        self.kernels = kernels(source, str(path), folder)
        self._library = ctypes.CDLL(str(self.file))
        self._share_stacks()
        self._costs: list[tuple[str, _Cost]] = []
        self._basic_blocks: list[tuple[str, _BasicBlock]] = []
        self.parameters: dict[str, list[str]] = {}  # as _as_parameter reads them
        for name in self.kernels:
            text = ctypes.create_string_buffer(400)
            with _one_at_a_time:
                getattr(self._library, f"emulator_describe_{name}")(text)
            self.parameters[name] = text.value.decode().split()

    def _share_stacks(self) -> None:
        """Give the library the stacks of all libraries, which the first one allocates."""
        function = self._library.emulator_stacks
        function.restype = ctypes.c_void_p
        with _one_at_a_time:
            Library._stacks = function(ctypes.c_void_p(Library._stacks))
        if Library._stacks is None:
            raise MemoryError("not enough memory for the stacks of a block's threads")

    def launch(
        self,
        name: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        arguments: tuple[Any, ...],
        shared: int = 0,
        order: int = 0,
    ) -> None:
        """Run a kernel to completion.

        arguments: arrays of memory.py, NumPy scalars of exactly the types that the kernel declares,
        or a NumPy array with one structure, which is passed by value. shared: bytes of dynamic
        shared memory. order: order in which threads and blocks run: 0 by index, 1 reversed, >= 2
        random with this seed.
        Raises EmulatorError, with the line of the .cu file if it is known.
        """
        if name not in self.parameters:
            raise EmulatorError(f"there is no kernel {name}: {', '.join(self.parameters)}")
        parameters = self.parameters[name]
        if len(arguments) != len(parameters):
            raise EmulatorError(
                f"{name} takes {len(parameters)} arguments and was given {len(arguments)}"
            )
        values = [
            _as_parameter(f"argument {i} of {name}", argument, parameter)
            for i, (argument, parameter) in enumerate(zip(arguments, parameters, strict=True))
        ]
        pointers = (ctypes.c_void_p * len(values))(*map(ctypes.addressof, values))
        error = ctypes.create_string_buffer(1000)
        with _one_at_a_time:
            if self.mode != "plain":
                self._describe_arrays(arguments)
            self._library.emulator_order(ctypes.c_uint(order))
            failed = getattr(self._library, f"emulator_launch_{name}")(
                ctypes.byref(_Dim3.of(grid)), ctypes.byref(_Dim3.of(block)),
                ctypes.c_size_t(shared), pointers, error, ctypes.c_size_t(len(error)),
            )  # fmt: skip
            if self.mode == "profile" and not failed:
                costs = self._records("emulator_profile", _Cost)
                self._costs += [(name, cost) for cost in costs]
                blocks = self._records("emulator_basic_blocks", _BasicBlock)
                self._basic_blocks += [(name, basic_block) for basic_block in blocks]
        if failed:
            raise EmulatorError(f"{name}: {with_source_lines(self.file, error.value.decode())}")
        for i, argument in enumerate(arguments):
            if not isinstance(argument, np.ndarray) or is_structure(argument):
                continue
            if side := memory.overwritten(argument):
                raise EmulatorError(
                    f"{name} wrote {side} argument {i}, an array of shape {argument.shape}"
                )

    def _describe_arrays(self, arguments: tuple[Any, ...]) -> None:
        """Pass the library all device arrays' extents and the index of each one's argument."""
        extents = memory.extents()
        starts = [e.start for e in extents]
        passed: dict[int, int] = {}  # start of an array -> index of the argument that is this array
        # start of an array -> index of the uint64 argument (a table of pointers) with its address
        named: dict[int, int] = {}
        for i, argument in enumerate(arguments):
            if not isinstance(argument, np.ndarray):
                continue
            if is_structure(argument):
                argument = np.frombuffer(argument.tobytes(), np.uint64)
            else:
                passed.setdefault(memory.extent_of(argument).start, i)
            if argument.dtype == np.uint64:
                for address in argument.ravel().tolist():
                    n = bisect.bisect(starts, address) - 1
                    if n >= 0 and address < extents[n].guard:
                        named.setdefault(starts[n], i)
        arrays = (_DeviceArray * len(extents))()
        for array, (front, start, end, guard, poison) in zip(arrays, extents, strict=True):
            array.before, array.start = front - memory.GUARD, start
            array.end, array.after = end, guard + memory.GUARD
            array.poison = int.from_bytes(poison, sys.byteorder)
            array.argument, array.table = passed.get(start, -1), named.get(start, -1)
        self._library.emulator_arrays(arrays, ctypes.c_size_t(len(extents)))

    def _records(self, name: str, kind: type[ctypes.Structure]) -> ctypes.Array:
        """Return the last launch's records, from library function `name`."""
        function = getattr(self._library, name)
        records = (kind * function(None, ctypes.c_size_t(0)))()
        function(records, ctypes.c_size_t(len(records)))
        return records

    def operations(self) -> dict[tuple[str, str], int]:
        """Return the floating-point operations of the launches since the last call.

        The key is a kernel with a "file:line". A multiply-add counts as two (arithmetic.py defines
        what is counted). Raises InputError if the mode is not "profile" or if operations cannot be
        counted on this machine.
        """
        self._check_profile()
        in_block = operations(self.file)
        totals: Counter[tuple[str, str]] = Counter()
        for kernel, block in self._basic_blocks:
            for place, count in in_block.get(block.place, {}).items():
                totals[kernel, place] += block.executions * count
        self._basic_blocks = []
        return dict(totals)

    def _check_profile(self) -> None:
        if self.mode != "profile":
            raise InputError(f'{self.path} runs in mode {self.mode}: load it with mode="profile".')

    def profile(self) -> list[Line]:
        """Return the cost of the launches since the last call, sorted by kernel and line.

        Raises InputError if the mode is not "profile".
        """
        self._check_profile()
        places = source_lines(self.file, (cost.place for _, cost in self._costs))
        totals: dict[tuple[str, ...], Line] = {}
        for kernel, cost in self._costs:
            space = "shared" if cost.shared else "global"
            line = Line(
                kernel, places[cost.place], space, ("load", "store", "atomic")[cost.kind],
                cost.requests, cost.bytes, cost.transactions, cost.ideal, cost.worst, cost.lanes,
                (cost.request(),),
            )  # fmt: skip
            key = line[:4]
            totals[key] = totals[key].plus(line) if key in totals else line
        self._costs = []
        return sorted(
            totals.values(),
            key=lambda line: (line.kernel, _line_order(line.place), line.space, line.kind),
        )


def is_structure(argument: Any) -> bool:
    """Return whether the argument is one structure, which CuPy passes by value."""
    return isinstance(argument, np.ndarray) and argument.dtype.fields and argument.size == 1


def _line_order(place: str) -> tuple[str, int]:
    """Return a sorting key for "file:line" that compares line numbers numerically."""
    file, _, line = place.partition(":")
    return file, int(line) if line.isdigit() else 0


def _as_parameter(label: str, argument: Any, parameter: str) -> Any:
    """Return an argument as a ctypes value.

    parameter: P pointer, S scalar or V structure, then kind, then bytes: "Pf4" for float*, "Si4"
    for int.
    """
    form, kind, size = parameter[0], parameter[1], int(parameter[2:])
    wanted = f"{KINDS[kind]} of {size} bytes"
    if form == "P":
        if isinstance(argument, np.uint64) and argument == 0:  # how CuPy passes a null pointer
            return ctypes.c_void_p()
        if not isinstance(argument, np.ndarray):
            raise EmulatorError(
                f"{label} should be an array (each element {wanted}), not {argument!r}"
            )
        if not memory.holds(argument):
            raise EmulatorError(f"{label} is not on the device: device_array() makes a copy there")
        if not argument.flags.c_contiguous:
            raise EmulatorError(f"{label} is not C-contiguous: kernels need contiguous arrays")
        if argument.dtype.itemsize != size or argument.dtype.kind != kind:
            raise EmulatorError(f"{label} has {argument.dtype} where {wanted} is declared")
        return ctypes.c_void_p(argument.ctypes.data)
    if form == "V":
        if not is_structure(argument) or argument.nbytes != size:
            raise EmulatorError(
                f"{label} is {argument!r} where a structure of {size} bytes is declared: pass a "
                "NumPy array with one element of a structured dtype"
            )
        return (ctypes.c_char * size).from_buffer_copy(argument.tobytes())
    if not isinstance(argument, np.generic):
        raise EmulatorError(
            f"{label} is {argument!r}: pass a NumPy scalar to fix its size ({wanted})"
        )
    if argument.dtype.itemsize != size or (argument.dtype.kind == "f") != (kind == "f"):
        raise EmulatorError(f"{label} is {argument.dtype} where {wanted} is declared")
    return (ctypes.c_char * size).from_buffer_copy(argument.tobytes())
