"""Kernels of a .cu file as functions: arguments are checked as the driver would, or more strictly.

CuPy passes a scalar with the size that it has in NumPy, whatever the kernel declares: a Python
float for a float parameter is 8 bytes where 4 are read. On a GPU that is a wrong number in silence;
here it is an error.
"""

import bisect
import ctypes
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from minddpm.errors import InputError
from minddpm.kernels.emulator import memory
from minddpm.kernels.emulator.arithmetic import operations
from minddpm.kernels.emulator.build import MODES, build, kernels, source_lines, with_source_lines
from minddpm.kernels.emulator.profile import Line

KINDS = {"f": "floating-point", "i": "signed", "u": "unsigned"}


_one_at_a_time = threading.Lock()  # the machine of runtime.cc is one


class EmulatorError(RuntimeError):
    """A kernel did something that a GPU would punish, or worse: would not."""


class _Dim3(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint) for name in "xyz"]

    @classmethod
    def of(cls, sizes: tuple[int, ...]) -> "_Dim3":
        if not 1 <= len(sizes) <= 3 or not all(0 <= n < 1 << 32 for n in sizes):
            raise EmulatorError(f"{sizes} should be one to three sizes")
        return cls(*sizes, *(1,) * (3 - len(sizes)))


class _DeviceArray(ctypes.Structure):  # access.h
    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("before", "start", "end", "after")),
        ("poison", ctypes.c_uint64),
        ("argument", ctypes.c_int64),
        ("table", ctypes.c_int64),
    ]  # fmt: skip


class _Cost(ctypes.Structure):  # profile.cc
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "place", "shared", "kind", "requests", "bytes", "transactions", "ideal", "worst",
        )
    ]  # fmt: skip


class _Stretch(ctypes.Structure):  # profile.cc
    _fields_ = [("place", ctypes.c_uint64), ("times", ctypes.c_uint64)]


class Library:
    """The kernels of one .cu source, to be launched by name.

    path: what the source is called in messages, in debuggers, and where it finds its .cuh files.
    mode: "plain"; "race", in which every access to memory is checked: it has to lie in an array, be
    aligned, not read what nobody wrote, and not race with another thread's; or "profile", in which
    they are counted.
    Raises InputError without a g++ that can build it.
    """

    def __init__(self, source: str, path: str | Path = "kernel.cu", mode: str = "plain"):
        if mode not in MODES:
            raise InputError(f"there is no mode {mode!r} of the emulator: {', '.join(MODES)}.")
        described = source, str(path), Path(path).parent
        self.path, self.mode = path, mode
        self.file, self.kernels = build(*described, mode), kernels(*described)
        self._library = ctypes.CDLL(str(self.file))
        self._costs: list[tuple[str, _Cost]] = []
        self._stretches: list[tuple[str, _Stretch]] = []
        self._parameters: dict[str, list[str]] = {}
        for name in self.kernels:
            text = ctypes.create_string_buffer(400)
            with _one_at_a_time:
                getattr(self._library, f"emulator_describe_{name}")(text)
            codes = text.value.decode()
            self._parameters[name] = [codes[i : i + 3] for i in range(0, len(codes), 3)]

    def launch(
        self,
        name: str,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        arguments: tuple[Any, ...],
        shared: int = 0,
        order: int = 0,
    ) -> None:
        """Run a kernel to its end.

        arguments: arrays of memory.py, or NumPy scalars of the very types that the kernel declares.
        shared: bytes of dynamic shared memory. order: of threads and blocks, 0 as numbered, 1 the
        other way round, from 2 on a random one of that number.
        Raises EmulatorError, with the line of the .cu file where there is one.
        """
        if name not in self._parameters:
            raise EmulatorError(f"there is no kernel {name}: {', '.join(self._parameters)}")
        parameters = self._parameters[name]
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
                self._costs += [(name, c) for c in self._last("emulator_profile", _Cost)]
                stretches = self._last("emulator_stretches", _Stretch)
                self._stretches += [(name, stretch) for stretch in stretches]
        if failed:
            raise EmulatorError(f"{name}: {with_source_lines(self.file, error.value.decode())}")
        for i, argument in enumerate(arguments):
            if isinstance(argument, np.ndarray) and (where := memory.overwritten(argument)):
                raise EmulatorError(
                    f"{name} wrote {where} argument {i}, an array of shape {argument.shape}"
                )

    def _describe_arrays(self, arguments: tuple[Any, ...]) -> None:
        """Tell the library where the arrays of the device are, and which of them were passed."""
        extents = memory.extents()
        starts = [e.start for e in extents]
        passed: dict[int, int] = {}
        named: dict[int, int] = {}  # whose address is a number in an argument
        for i, argument in enumerate(arguments):
            if not isinstance(argument, np.ndarray):
                continue
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

    def _last(self, function: str, kind: type[ctypes.Structure]) -> ctypes.Array:
        """What a function of the library tells about the last launch."""
        tell = getattr(self._library, function)
        told = (kind * tell(None, ctypes.c_size_t(0)))()
        tell(told, ctypes.c_size_t(len(told)))
        return told

    def flops(self) -> dict[str, int]:
        """Floating-point operations of each kernel launched since it was last asked.

        A multiply-add is two (arithmetic.py says what counts). Raises InputError where they cannot
        be counted.
        """
        self._check_profile()
        each, totals = operations(self.file), dict.fromkeys((k for k, _ in self._stretches), 0)
        for kernel, stretch in self._stretches:
            totals[kernel] += stretch.times * each.get(stretch.place, 0)
        self._stretches = []
        return totals

    def _check_profile(self) -> None:
        if self.mode != "profile":
            raise InputError(f'{self.path} runs in mode {self.mode}: load it with mode="profile".')

    def profile(self) -> list[Line]:
        """What the launches cost that were made since it was last asked, by kernel and line."""
        self._check_profile()
        places = source_lines(self.file, (cost.place for _, cost in self._costs))
        totals: dict[tuple[str, ...], list[int]] = {}
        for kernel, cost in self._costs:
            space = "shared" if cost.shared else "global"
            key = (kernel, places[cost.place], space, ("load", "store", "atomic")[cost.kind])
            *sums, worst = totals.setdefault(key, [0] * 5)
            more = cost.requests, cost.bytes, cost.transactions, cost.ideal
            totals[key] = [*map(sum, zip(sums, more, strict=True)), max(worst, cost.worst)]
        self._costs = []
        return sorted(
            (Line(*key, *numbers) for key, numbers in totals.items()),
            key=lambda line: (line.kernel, _by_number(line.place), line.space, line.kind),
        )


def _by_number(place: str) -> tuple[str, int]:
    """A "file:line" so that line 9 comes before line 10."""
    file, _, line = place.partition(":")
    return file, int(line) if line.isdigit() else 0


def _as_parameter(what: str, argument: Any, parameter: str) -> Any:
    """The bytes of an argument in ctypes; parameter: "Pf4" for float*, "Si4" for int."""
    form, kind, size = parameter[0], parameter[1], int(parameter[2])
    wanted = f"{KINDS[kind]}, {size} bytes"
    if form == "P":
        if isinstance(argument, np.uint64) and argument == 0:  # how CuPy passes a null pointer
            return ctypes.c_void_p()
        if not isinstance(argument, np.ndarray):
            raise EmulatorError(f"{what} should be an array ({wanted}), not {argument!r}")
        if not memory.holds(argument):
            raise EmulatorError(f"{what} is not on the device: device_array() makes a copy there")
        if not argument.flags.c_contiguous:
            raise EmulatorError(f"{what} is not C-contiguous: kernels know nothing of strides")
        if argument.dtype.itemsize != size or argument.dtype.kind != kind:
            raise EmulatorError(f"{what} has {argument.dtype} where {wanted} are declared")
        return ctypes.c_void_p(argument.ctypes.data)
    if not isinstance(argument, np.generic):
        raise EmulatorError(
            f"{what} is {argument!r}: pass a NumPy scalar, so that its size is certain ({wanted})"
        )
    if argument.dtype.itemsize != size or (argument.dtype.kind == "f") != (kind == "f"):
        raise EmulatorError(f"{what} is a {argument.dtype} where {wanted} are declared")
    return (ctypes.c_char * size).from_buffer_copy(argument.tobytes())
