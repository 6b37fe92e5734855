"""From the text of a .cu file to a shared library that g++ made of it, kept between runs.

The text stays what it is, line by line, but for __shared__: such an array belongs to a block, which
no C++ declaration says. Each becomes a reference into the block's memory, on the same line.
"""

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from minddpm.errors import InputError
from minddpm.files import cache_directory

HERE = Path(__file__).parent
# Casts between float* and float4* are everyday CUDA, hence no aliasing by type. DWARF 4, as some
# addr2line tell the wrong file after #line in version 5.
FLAGS = ("-std=c++17", "-O2", "-gdwarf-4", "-fPIC", "-fno-strict-aliasing", "-w")

_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_INCLUDE = re.compile(r'^[ \t]*#include "([^"]+)"[^\n]*$', re.M)
# Ours for CUDA's own headers: what is in them is unknown without them, as it is to NVRTC.
_HEADERS = {"cuda_fp16.h": HERE / "half.h", "mma.h": HERE / "wmma.h"}
_CUDAS = re.compile(rf"^[ \t]*#include <({'|'.join(_HEADERS)})>", re.M)
_ALIGN = r"(?:__align__\((\d+)\)\s+)?"
_DYNAMIC = re.compile(rf"extern\s+__shared__\s+{_ALIGN}((?:[\w:]+\s+)+)(\w+)\s*\[\s*\]\s*;")
_STATIC = re.compile(rf"__shared__\s+{_ALIGN}((?:[\w:]+\s+)+)(\w+[^;=]*);")
_ARRAY = re.compile(r"(\w+)\s*((?:\[[^\]]+\]\s*)*)")
_BOUNDS = r"(?:__launch_bounds__\(([^,)]+)[^)]*\)\s*)?"
_KERNEL = re.compile(rf'extern\s+"C"\s+__global__\s+{_BOUNDS}void\s+{_BOUNDS}(\w+)\s*\(')


def expand(source: str, path: str, includes: Path) -> str:
    """The source with its .cuh files put in, and without comments, which are no code.

    Every line of every file stays in its place: #line tells the compiler where it is.
    """

    def included(found: re.Match[str]) -> str:
        file = includes / found[1]
        here = found.string.count("\n", 0, found.start()) + 1
        inner = expand(file.read_text(), str(file), includes)
        return f'{inner}\n#line {here + 1} "{path}"'

    text = _COMMENT.sub(lambda found: "\n" * found[0].count("\n"), source)
    text = f'#line 1 "{path}"\n{_INCLUDE.sub(included, text)}'
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


def build(source: str, path: str, includes: Path) -> Path:
    """The library of this source, compiled unless the cache has it.

    path: the name under which compilers, debuggers and messages show the source. includes: the
    folder of its .cuh files. Raises InputError without g++, RuntimeError with the compiler's words
    if it fails.
    """
    exports = [
        f"EMULATOR_EXPORT({name}, {most})\n"
        for name, most in kernels(source, path, includes).items()
    ]
    code = translate(expand(source, path, includes))
    text = f'{code}\n#line 1 "emulator"\n{"".join(exports)}'
    shim, runtime = HERE / "shim.h", HERE / "runtime.cc"
    digest = hashlib.sha256("\0".join((text, *FLAGS)).encode())
    for file in (shim, runtime, *_HEADERS.values()):
        digest.update(file.read_bytes())
    library = cache_directory("emulator") / f"{digest.hexdigest()[:24]}.so"
    if not library.exists():
        compiler = shutil.which("g++")
        if compiler is None:
            raise InputError(
                "the CUDA emulator needs g++, which is not installed: install it (the package g++ "
                "of Debian and Ubuntu)."
            )
        with tempfile.TemporaryDirectory(dir=library.parent) as work:
            cpp, made = Path(work, "kernel.cc"), Path(work, library.name)
            cpp.write_text(text)
            command = [
                compiler, *FLAGS, "-shared", "-Wl,-Bsymbolic",
                "-include", str(shim), str(cpp), "-x", "c++", str(runtime), "-o", str(made), "-ldl",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"g++ does not compile {path}:\n{done.stderr}")
            os.replace(made, library)  # two processes may have built it
    return library


def source_lines(library: Path, text: str) -> str:
    """text with every @offset@ into the library as "file:line"."""

    def line(found: re.Match[str]) -> str:
        command = ["addr2line", "-e", str(library), hex(int(found[1], 16))]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except FileNotFoundError:
            return "somewhere"
        return Path(done.stdout.partition(" (")[0].strip()).name  # without a discriminator

    return re.sub(r"@([0-9a-f]+)@", line, text)
