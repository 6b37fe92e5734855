"""Run the student's kernel on the emulator, and count what it costs."""

import re
from pathlib import Path
from typing import Any

import numpy as np

from checker.compare import Mistakes, NotPassed, compare
from minddpm.kernels.emulator import (
    EmulatorError,
    Library,
    device_array,
    device_empty,
    memory,
    notation,
)
from minddpm.kernels.emulator.build import parameter_names
from minddpm.kernels.emulator.page import library_page
from minddpm.kernels.emulator.profile import Line

COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
PARAMETERS = r"\s*\(([^)]*)\)\s*\{"
# What is found in the emulator's or g++'s message -> what to do about it; the first that fits.
ADVICE = {
    r"writes .* wrote: no barrier": "Two threads write the same number: each number belongs to one "
    "thread, or a __syncthreads() has to stand between the two writes.",
    "no barrier between them": "Between these two accesses by different threads, at least one of "
    "them a write, there has to be a __syncthreads() that both threads pass.",
    "blocks are not ordered": "Two blocks access the same number, at least one of them writes it: "
    "each number of the result belongs to one block. Does the index contain blockIdx? If a thread "
    "handles several numbers, is its step as large as the number of all threads in the grid?",
    "out of bounds": "A thread may not go beyond an array: compare its index with the size first.",
    "accesses unmapped memory": "This is far outside of every array: check how the index is made.",
    "which nobody wrote": "Memory is not zero at first: write a number before you read it.",
    "divergent barrier": "All threads of a block have to reach the same __syncthreads(): none may "
    "return before it, and it may not stand in an `if` or loop that only some threads enter.",
    "INFINITY": "CUDA's run-time compiler declares no INFINITY: begin with a number of the row.",
    "of its warp, of which only": "All lanes named in a shuffle's mask have to reach it: it may "
    "not stand in an `if` or loop that only some lanes enter.",
}


class Kernel:
    """The kernel of a .cu file, which is named as the file without its number."""

    def __init__(self, file: Path):
        self.file, self.source, self.name = file, file.read_text(), file.stem[3:]
        self.libraries: dict[str, Library] = {}
        self.launched: tuple[Any, ...] | None = None  # the last launch that went well

    def is_empty(self) -> bool:
        """Return whether the body of the kernel is still empty."""
        code = COMMENT.sub("", self.source)
        return re.search(rf"\b{self.name}{PARAMETERS}\s*\}}", code) is not None

    def library(self, mode: str) -> Library:
        """Return the kernel compiled for this mode of the emulator."""
        if mode not in self.libraries:
            try:
                # By its name alone, so that a copy elsewhere is not compiled again.
                self.libraries[mode] = Library(self.source, self.file.name, mode)
            except RuntimeError as error:
                message = "\n".join(str(error).splitlines()[:12])  # g++ shows the lines
                raise NotPassed(_advised(message)) from None
            if self.name not in self.libraries[mode].kernels:
                raise NotPassed(f'There is no kernel {self.name}: keep extern "C" __global__ void.')
        return self.libraries[mode]

    def launch(
        self, mode: str, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any,
        order: int = 0,
    ) -> None:  # fmt: skip
        """Run the kernel; a Python number is passed as an int or float of 32 bits."""
        of_c = {int: np.int32, float: np.float32}
        values = tuple(of_c[type(a)](a) if type(a) in of_c else a for a in arguments)
        try:
            self.library(mode).launch(self.name, grid, block, values, order=order)
        except EmulatorError as error:
            raise self.not_passed(self._explained(str(error))) from None
        self.launched = grid, block, values

    def page(self) -> str | None:
        """Return a page of what each line costs in the last launch; None if none went well."""
        if self.launched is None:
            return None
        library = Library(self.source, self.file.name, "profile")
        library.launch(self.name, *self.launched)
        return library_page(library, [notation.written(self.name, *self.launched)])

    def _explained(self, message: str) -> str:
        """Return the emulator's message with the arguments' names, and what to do about it."""
        names = parameter_names(self.source, self.name)
        return _advised(re.sub(r"argument (\d+)", lambda number: names[int(number[1])], message))

    def check(
        self, grid: tuple[int, ...], block: tuple[int, ...], inputs: tuple[Any, ...],
        expected: np.ndarray, options: tuple[Any, ...], *, sizes: str = "",
        mistakes: Mistakes | None = None, tolerance: float = 1e-5,
    ) -> None:  # fmt: skip
        """Run the kernel in race mode, threads in two orders, and compare y with the expected one.

        The kernel's arguments: the inputs, y, the options. sizes: those of this run, for messages.
        """
        for order in (0, 2):
            y = device_empty(expected.shape)
            arrays = [device_array(x) for x in inputs]
            self.launch("race", grid, block, *arrays, y, *options, order=order)
            unwritten = np.argwhere(y.view(np.uint32) == np.frombuffer(memory.POISON, np.uint32)[0])
            where = f"With {sizes}: " if sizes else ""
            if len(unwritten):
                at = ", ".join(map(str, unwritten[0]))
                raise NotPassed(
                    f"{where}y[{at}] was never written ({len(unwritten)} of {y.size} numbers): "
                    "check which thread writes which number."
                )
            compare(f"{where}y", y.astype(float), expected.astype(float), mistakes, tolerance)

    def profile(
        self, grid: tuple[int, ...], block: tuple[int, ...], inputs: tuple[Any, ...],
        shape: tuple[int, ...], options: tuple[Any, ...],
    ) -> list[Line]:  # fmt: skip
        """Return what each line of the kernel costs in a run with these arguments."""
        arrays = [device_array(x) for x in inputs]
        self.launch("profile", grid, block, *arrays, device_empty(shape), *options)
        return self.library("profile").profile()

    def check_sectors(self, lines: list[Line]) -> None:
        """Raise NotPassed if an access to global memory takes more sectors than its bytes fill."""
        for line in lines:
            if line.space == "global" and line.transactions > line.ideal:
                raise self.not_passed(
                    f"The result is right, but the {line.kind} at {line.place} takes "
                    f"{line.transactions / line.requests:.3g} sectors of 32 bytes per request of a "
                    f"warp, where {line.ideal / line.requests:.3g} hold all of its numbers.\n"
                    "Neighbouring threads (threadIdx.x) have to access neighbouring numbers."
                )

    def check_banks(self, lines: list[Line]) -> None:
        """Raise NotPassed if an access to shared memory has a bank conflict."""
        for line in lines:
            if line.space == "shared" and line.transactions > line.ideal:
                raise self.not_passed(
                    f"The result is right, but the shared {line.kind} at {line.place} has a "
                    f"{line.worst}-way bank conflict: {line.worst} threads of a warp access "
                    "different words of one bank, one after the other.\n"
                    "Word i is in bank i % 32: give the rows of the array another length."
                )

    def not_passed(self, text: str) -> NotPassed:
        """Return the exception with this text, and below it each line of the file that it names."""
        lines = self.source.splitlines()
        named = re.findall(rf"{re.escape(self.file.name)}:(\d+)|\bline (\d+)", text)
        for number in dict.fromkeys(int(a or b) for a, b in named):
            text += f"\n{self.file.name}:{number}:  {lines[number - 1].strip()}"
        return NotPassed(text)


def _advised(message: str) -> str:
    """Return the message with what to do about it."""
    advice = [text for sign, text in ADVICE.items() if re.search(sign, message)]
    return "\n".join([message, *advice[:1]])


def requests(lines: list[Line], space: str, kind: str = "load") -> int:
    """Return how many accesses of this kind the warps make."""
    return sum(line.requests for line in lines if (line.space, line.kind) == (space, kind))
