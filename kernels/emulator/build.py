"""Compile a .cu file to a shared library with g++, and cache the library between runs.

The source is compiled unchanged, line by line, except for __shared__ arrays, because C++ has no
per-block arrays. Each becomes a reference into the block's memory, on the same line.
"""

import hashlib
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from minddpm.errors import InputError
from minddpm.storage.cache_folder import cached_file

MACHINE_FOLDER = Path(__file__).parent / "machine"
# The parts of the machine that every mode links, and those that each mode adds.
MACHINE = ("runtime.cc", "fibers.cc", "shared.cc", "ptx.cc")
MODES = {
    "plain": (),
    "race": ("access.cc", "order.cc", "race.cc"),
    "profile": ("access.cc", "profile.cc"),
}
# -fno-strict-aliasing: casts between float* and float4* are usual in CUDA. DWARF 4: with version 5
# some versions of addr2line report the wrong file after #line.
FLAGS = ("-std=c++17", "-gdwarf-4", "-fPIC", "-fno-strict-aliasing", "-w")
# Instrumented code is not optimised, so every access and every multiplication of the source is
# executed separately. For counting, g++ inserts a function call in each basic block.
INSTRUMENTED = ("-O0", "-fsanitize=thread")
# -g1 has the lines and no variables, of which -O2 leaves few: it takes a fifth of the time away.
MODE_FLAGS = {
    "plain": ("-O2", "-g1"),
    "race": INSTRUMENTED,
    "profile": (*INSTRUMENTED, "-fsanitize-coverage=trace-pc"),
}

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
# #line is repeated after these directives: #include, and #else, #elif and #endif, because the
# compiler ignores #line inside a skipped branch.
_DIRECTIVE = re.compile(r'^[ \t]*#(?:include "([^"]+)"|else|elif|endif)[^\n]*$', re.M)
_REPLACED = {"ptx.cuh": MACHINE_FOLDER / "ptx.h"}  # assembly that g++ does not know
_ALIGN = r"(?:__align__\((\d+)\)\s+)?"
_DYNAMIC = re.compile(rf"extern\s+__shared__\s+{_ALIGN}((?:[\w:]+\s+)+)(\w+)\s*\[\s*\]\s*;")
_STATIC = re.compile(rf"__shared__\s+{_ALIGN}((?:[\w:]+\s+)+)(\w+[^;=]*);")
_ARRAY = re.compile(r"(\w+)\s*((?:\[[^\]]+\]\s*)*)")
_BOUNDS = r"(?:__launch_bounds__\(([^,)]+)[^)]*\)\s*)?"
_KERNEL = re.compile(rf'extern\s+"C"\s+__global__\s+{_BOUNDS}void\s+{_BOUNDS}(\w+)\s*\(')
_PLACE = re.compile(r"@([0-9a-f]+)@")


def expand(source: str, path: str, includes: Path) -> str:
    """Return the source with its .cuh files inserted and comments removed.

    Lines keep their numbers: #line gives the compiler the file and line of each part. Macros may
    stand before a line "#line 1".
    """
    macros, mark, _ = source.partition("#line 1\n")
    begin = len(macros + mark) if mark else 0

    def with_line_number(found: re.Match[str]) -> str:
        here = found.string.count("\n", begin, found.start()) + 1
        line = found[0]
        if found[1] in _REPLACED:
            line = f'#include "{_REPLACED[found[1]]}"'
        elif found[1]:
            file = includes / found[1]
            line = expand(file.read_text(), str(file), includes)
        return f'{line}\n#line {here + 1} "{path}"'

    text = _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), source)
    return f'#line 1 "{path}"\n{_DIRECTIVE.sub(with_line_number, text)}'


def kernels(source: str, path: str, includes: Path) -> dict[str, str]:
    """Return the kernels of a .cu file: name -> threads of its __launch_bounds__, or "1024"."""
    found = _KERNEL.findall(expand(source, path, includes))
    return {name: before or behind or "1024" for before, behind, name in found}


def parameter_names(source: str, kernel: str) -> list[str]:
    """Return the names of a kernel's parameters; none if the source does not list them plainly."""
    found = re.search(rf"\b{kernel}\s*\(([^)]*)\)\s*\{{", _COMMENT.sub("", source))
    listed = found[1].split(",") if found else []
    return [re.findall(r"\w+", parameter)[-1] for parameter in listed if parameter.strip()]


def translate(text: str) -> str:
    """Return the result of `expand` with its __shared__ arrays replaced by references."""
    count = 0

    def static(found: re.Match[str]) -> str:
        nonlocal count
        align, kind, arrays = found[1] or 1, found[2].strip(), []
        for name, sizes in _ARRAY.findall(found[3]):
            count += 1
            shared = f"::emulator::shared<{count}, {align}, {kind}{sizes}>"
            arrays.append(f'auto& {name} = {shared}("{name}");')
        return " ".join(arrays) + "\n" * found[0].count("\n")

    text = _DYNAMIC.sub(r"\2* \3 = static_cast<\2*>(::emulator::dynamic_shared());", text)
    return _STATIC.sub(static, text)


def build(source: str, path: str, includes: Path, mode: str = "plain") -> Path:
    """Return the file of this source's library, compiling it if it is not in the cache.

    path: name of the source in messages and debuggers. includes: folder of its .cuh files. mode:
    one of MODES. Raises InputError if no suitable g++ is found, RuntimeError with the compiler's
    message if compilation fails.
    """
    exports = [
        f"EMULATOR_EXPORT({name}, {bound})\n"
        for name, bound in kernels(source, path, includes).items()
    ]
    code = translate(expand(source, path, includes))
    text = f'{code}\n#line 1 "emulator"\n{"".join(exports)}'

    def make(target: Path) -> None:
        work = target.parent
        (work / "kernel.cc").write_text(text)
        flags = ("-c", *MODE_FLAGS[mode], "-include", str(MACHINE_FOLDER / "shim.h"))
        _compile(path, *flags, str(work / "kernel.cc"), "-o", str(work / "kernel.o"))
        objects = str(work / "kernel.o"), str(_machine(mode))
        _compile(path, "-shared", "-Wl,-Bsymbolic", *objects, "-o", str(target))

    return _cached(f"{mode}\0{text}", ".so", make)


def _machine(mode: str) -> Path:
    """Return the object file of the machine with which kernels of this mode are linked."""
    parts = [str(MACHINE_FOLDER / name) for name in (*MACHINE, *MODES[mode])]

    def make(target: Path) -> None:
        _compile("the emulator", "-O2", "-r", "-nostdlib", *parts, "-o", str(target))

    return _cached(mode, ".o", make)


def _cached(contents: str, suffix: str, make: Callable[[Path], None]) -> Path:
    """Return the file of the cache for these contents; `make` creates it if it is missing."""
    # MACHINE_FOLDER is part of the key, because the library contains the paths of its source files
    # for debuggers and for `source_lines`.
    key = f"{contents}\0{_compiler()}\0{FLAGS}{MODE_FLAGS}{MACHINE_FOLDER}"
    digest = hashlib.sha256(key.encode())
    for file in sorted((*MACHINE_FOLDER.glob("*.h"), *MACHINE_FOLDER.glob("*.cc"))):
        digest.update(file.read_bytes())
    return cached_file("emulator", f"{digest.hexdigest()[:24]}{suffix}", make)


@cache
def _compiler() -> str:
    """Return the CPU architecture and g++'s version. Raises InputError if there is no g++."""
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
    """Return the "file:line" of each of these offsets into the library."""
    offsets = list(dict.fromkeys(offsets))
    command = ["addr2line", "-a", "-i", "-e", str(library), *map(hex, offsets)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        return dict.fromkeys(offsets, "somewhere")
    lines = {}
    answers = re.split(r"^0x\w+\n", done.stdout, flags=re.M)[1:]
    for offset, answer in zip(offsets, answers, strict=True):
        # The innermost inlined function comes first; those of the emulator are skipped.
        frames = [line.partition(" (")[0] for line in answer.splitlines()]  # no discriminator
        of_kernel = [frame for frame in frames if not frame.startswith(f"{MACHINE_FOLDER}/")]
        lines[offset] = Path((of_kernel or frames)[0]).name
    return lines


def with_source_lines(library: Path, text: str) -> str:
    """Return text with every @offset@ into the library replaced by its "file:line"."""
    places = [int(found, 16) for found in _PLACE.findall(text)]
    lines = source_lines(library, places)
    return _PLACE.sub(lambda found: lines[int(found[1], 16)], text)
