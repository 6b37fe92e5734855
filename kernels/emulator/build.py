"""From the text of a .cu file to a shared library that g++ made of it, kept between runs.

The text stays what it is, line by line, but for __shared__: such an array belongs to a block, which
no C++ declaration says. Each becomes a reference into the block's memory, on the same line.
"""

import hashlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from minddpm.errors import InputError
from minddpm.storage.cache_folder import cache_directory

MACHINE_FOLDER = Path(__file__).parent / "machine"
# For each mode, the parts of the machine beyond those that every mode has.
MODES = {
    "plain": (),
    "race": ("access.cc", "order.cc", "race.cc"),
    "profile": ("access.cc", "profile.cc"),
}
MACHINE = ("runtime.cc", "fibers.cc", "shared.cc")
# Casts between float* and float4* are everyday CUDA, hence no aliasing by type. DWARF 4, as some
# addr2line tell the wrong file after #line in version 5.
FLAGS = ("-std=c++17", "-gdwarf-4", "-fPIC", "-fno-strict-aliasing", "-w")
# To be watched, code is not optimised: every access of the source is made, by itself, and so is
# every multiplication. To count these, g++ calls a function in each stretch without a branch.
WATCHED = ("-O0", "-fsanitize=thread")
COMPILED = {
    "plain": ("-O2",),
    "race": WATCHED,
    "profile": (*WATCHED, "-fsanitize-coverage=trace-pc"),
}

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
# An included file, and where lines may come to an end that were left out, with what told of them.
_TURN = re.compile(r'^[ \t]*#(?:include "([^"]+)"|else|elif|endif)[^\n]*$', re.M)
# Ours for CUDA's own headers: what is in them is unknown without them, as it is to NVRTC.
_HEADERS = {
    "cuda_fp16.h": MACHINE_FOLDER / "half.h",
    "cuda_bf16.h": MACHINE_FOLDER / "bfloat16.h",
    "mma.h": MACHINE_FOLDER / "wmma.h",
}  # fmt: skip
_CUDAS = re.compile(rf"^[ \t]*#include <({'|'.join(_HEADERS)})>", re.M)
_ALIGN = r"(?:__align__\((\d+)\)\s+)?"
_DYNAMIC = re.compile(rf"extern\s+__shared__\s+{_ALIGN}((?:[\w:]+\s+)+)(\w+)\s*\[\s*\]\s*;")
_STATIC = re.compile(rf"__shared__\s+{_ALIGN}((?:[\w:]+\s+)+)(\w+[^;=]*);")
_ARRAY = re.compile(r"(\w+)\s*((?:\[[^\]]+\]\s*)*)")
_BOUNDS = r"(?:__launch_bounds__\(([^,)]+)[^)]*\)\s*)?"
_KERNEL = re.compile(rf'extern\s+"C"\s+__global__\s+{_BOUNDS}void\s+{_BOUNDS}(\w+)\s*\(')
_PLACE = re.compile(r"@([0-9a-f]+)@")


def expand(source: str, path: str, includes: Path) -> str:
    """The source with its .cuh files put in, and without comments, which are no code.

    Every line of every file stays in its place: #line tells the compiler where it is.
    """

    def turned(found: re.Match[str]) -> str:
        here = found.string.count("\n", 0, found.start()) + 1
        line = found[0]
        if found[1]:
            file = includes / found[1]
            line = expand(file.read_text(), str(file), includes)
        return f'{line}\n#line {here + 1} "{path}"'

    text = _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), source)
    text = f'#line 1 "{path}"\n{_TURN.sub(turned, text)}'
    return _CUDAS.sub(lambda found: f'#include "{_HEADERS[found[1]]}"', text)


def kernels(source: str, path: str, includes: Path) -> dict[str, str]:
    """The kernels of a .cu file by name, with the threads of their __launch_bounds__ or 1024."""
    found = _KERNEL.findall(expand(source, path, includes))
    return {name: before or behind or "1024" for before, behind, name in found}


def translate(text: str) -> str:
    """What `expand` gave, with its __shared__ arrays as references."""
    places = 0

    def static(found: re.Match[str]) -> str:
        nonlocal places
        align, kind, arrays = found[1] or 1, found[2].strip(), []
        for name, sizes in _ARRAY.findall(found[3]):
            places += 1
            shared = f"::emulator::shared<{places}, {align}, {kind}{sizes}>"
            arrays.append(f'auto& {name} = {shared}("{name}");')
        return " ".join(arrays) + "\n" * found[0].count("\n")

    text = _DYNAMIC.sub(r"\2* \3 = static_cast<\2*>(::emulator::dynamic_shared());", text)
    return _STATIC.sub(static, text)


def build(source: str, path: str, includes: Path, mode: str = "plain") -> Path:
    """The library of this source, compiled unless the cache has it.

    path: the name under which compilers, debuggers and messages show the source. includes: the
    folder of its .cuh files. mode: one of MODES. Raises InputError without a g++ that can do it,
    RuntimeError with the compiler's words if it fails.
    """
    exports = [
        f"EMULATOR_EXPORT({name}, {most})\n"
        for name, most in kernels(source, path, includes).items()
    ]
    code = translate(expand(source, path, includes))
    text = f'{code}\n#line 1 "emulator"\n{"".join(exports)}'

    def make(made: Path) -> None:
        work = made.parent
        (work / "kernel.cc").write_text(text)
        how = ("-c", *COMPILED[mode], "-include", str(MACHINE_FOLDER / "shim.h"))
        _compile(path, *how, str(work / "kernel.cc"), "-o", str(work / "kernel.o"))
        objects = str(work / "kernel.o"), str(_machine(mode))
        _compile(path, "-shared", "-Wl,-Bsymbolic", *objects, "-o", str(made))

    return _cached(f"{mode}\0{text}", ".so", make)


def _machine(mode: str) -> Path:
    """What kernels of this mode are linked with, in one object file."""
    parts = [str(MACHINE_FOLDER / name) for name in (*MACHINE, *MODES[mode])]

    def make(made: Path) -> None:
        _compile("the emulator", "-O2", "-r", "-nostdlib", *parts, "-o", str(made))

    return _cached(mode, ".o", make)


def _cached(what: str, ending: str, make: Callable[[Path], None]) -> Path:
    """The file that `make` makes, in a folder of its own, unless the cache has it."""
    # The folder, too: debuggers and `source_lines` read in the library where its files lie.
    digest = hashlib.sha256(f"{what}\0{_compiler()}\0{FLAGS}{COMPILED}{MACHINE_FOLDER}".encode())
    for file in sorted((*MACHINE_FOLDER.glob("*.h"), *MACHINE_FOLDER.glob("*.cc"))):
        digest.update(file.read_bytes())
    kept = cache_directory("emulator") / f"{digest.hexdigest()[:24]}{ending}"
    if not kept.exists():
        with tempfile.TemporaryDirectory(dir=kept.parent) as work:
            made = Path(work, kept.name)
            make(made)
            os.replace(made, kept)  # two processes may have built it
    return kept


@cache
def _compiler() -> str:
    """Which g++ this is, for which machine. Raises InputError if there is none."""
    if shutil.which("g++") is None:
        raise InputError(
            "the CUDA emulator needs g++, which is not installed: install it (the package g++ of "
            "Debian and Ubuntu)."
        )
    version = subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout
    return f"{platform.machine()} {version}"


def _compile(what: str, *arguments: str) -> None:
    done = subprocess.run(["g++", *FLAGS, *arguments], capture_output=True, text=True)
    if done.returncode and "-fsanitize=thread" in done.stderr:
        raise InputError(
            "the modes race and profile need a g++ that knows -fsanitize=thread, and this one does "
            "not: use the plain mode, or g++ on x86-64 or ARM64 Linux."
        )
    if done.returncode:
        raise RuntimeError(f"g++ does not compile {what}:\n{done.stderr}")


def source_lines(library: Path, offsets: Iterable[int]) -> dict[int, str]:
    """The "file:line" of each of these offsets into the library."""
    offsets = list(dict.fromkeys(offsets))
    command = ["addr2line", "-a", "-i", "-e", str(library), *map(hex, offsets)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return dict.fromkeys(offsets, "somewhere")
    lines = {}
    answers = re.split(r"^0x\w+\n", done.stdout, flags=re.M)[1:]
    for offset, answer in zip(offsets, answers, strict=True):
        # What was inlined comes first: of that, what the emulator has is not the kernel's own.
        frames = [line.partition(" (")[0] for line in answer.splitlines()]  # no discriminator
        own = [frame for frame in frames if not frame.startswith(f"{MACHINE_FOLDER}/")]
        lines[offset] = Path((own or frames)[0]).name
    return lines


def with_source_lines(library: Path, text: str) -> str:
    """text with every @offset@ into the library as "file:line"."""
    places = [int(found, 16) for found in _PLACE.findall(text)]
    lines = source_lines(library, places)
    return _PLACE.sub(lambda found: lines[int(found[1], 16)], text)
