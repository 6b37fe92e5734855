"""NVRTC without a GPU: whether a kernel compiles for an architecture, and what it needs there.

CUDA's own compiler is a wheel (pip install nvidia-cuda-nvrtc) and runs on any Linux machine. It
needs no GPU to generate code for one, and reports how many registers a thread uses and how many
bytes did not fit (spills, which are stored in memory). disassembly.py reads the code.
"""

import ctypes
import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from minddpm.errors import InputError
from minddpm.storage.cache_folder import cached_file

# T4, A100, RTX 30, RTX 40, H100, B200, RTX 50
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


class Resources(NamedTuple):
    """What one kernel needs on one architecture.

    registers: of a thread. spills: bytes that a thread stores and loads because registers are
    short. stack: bytes of its local memory, for spills and for arrays whose index the compiler does
    not know. shared: bytes of a block. threads: of a block, by __launch_bounds__, or None without.
    """

    registers: int
    spills: int
    stack: int
    shared: int
    threads: int | None


class Program(NamedTuple):
    """A .cu file compiled for one architecture: its kernels by name, and the machine code."""

    kernels: dict[str, Resources]
    cubin: bytes


def available() -> bool:
    """Return whether the wheel is installed."""
    return in_wheels("libnvrtc.so*") is not None


def in_wheels(pattern: str) -> Path | None:
    """Return the first file that matches in NVIDIA's wheels, or None if no wheel has one.

    The wheels' folders differ from version to version.
    """
    nvidia = importlib.util.find_spec("nvidia")
    folders = nvidia.submodule_search_locations or () if nvidia else ()
    return next((file for folder in folders for file in Path(folder).rglob(pattern)), None)


@cache
def _nvrtc() -> ctypes.CDLL:
    library = in_wheels("libnvrtc.so*")
    if library is None:
        raise InputError('NVRTC is not installed: pip install -e ".[nvrtc]".')
    return ctypes.CDLL(str(library))


@cache
def compile(file: Path, architecture: int, defines: tuple[str, ...] = ()) -> Program:
    """Compile a .cu file for sm_<architecture>, or read the program from the cache on disk.

    defines: macros, "NAME" or "NAME=value". CUDA's own headers are not found: no kernel needs one.
    Raises RuntimeError with the compiler's log if it fails, InputError if NVRTC is not installed.
    """
    key = "\0".join((_version(), *_options(architecture, defines), *_sources(file)))

    def make(target: Path) -> None:
        kernels, cubin = _compile(file, architecture, defines)
        target.write_bytes(json.dumps(kernels).encode() + b"\n" + cubin)

    name = hashlib.sha256(key.encode()).hexdigest()[:24]
    kernels, _, cubin = cached_file("nvrtc", name, make).read_bytes().partition(b"\n")
    return Program({name: Resources(*n) for name, n in json.loads(kernels).items()}, cubin)


def _options(architecture: int, defines: tuple[str, ...]) -> list[str]:
    """Return the compiler's options except the folder of .cuh files."""
    # What CuPy adds: denormals are zero, and functions without a mark are for the device. Its
    # include paths are absent, because no file of ours includes a header of another project.
    options = [f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v", "--ftz=true"]
    options += ["--device-as-default-execution-space", "--std=c++17"]
    return options + [f"-D{define}" for define in defines]


@cache
def _version() -> str:
    """Return what a program depends on beside its source: the compiler, and how it is called."""
    numbers = ctypes.c_int(), ctypes.c_int()
    _nvrtc().nvrtcVersion(*map(ctypes.byref, numbers))
    # The size differs between releases of one version.
    size = Path(_nvrtc()._name).stat().st_size
    return f"{[number.value for number in numbers]} {size} {Path(__file__).read_text()}"


def _sources(file: Path) -> Iterator[str]:
    """Yield the text of a file and of all that it includes; the compiler finds what is missing."""
    yield (text := file.read_text())
    for name in re.findall(r'#include "([^"]+)"', text):
        if (included := file.parent / name).is_file():
            yield from _sources(included)


def _compile(file: Path, architecture: int, defines: tuple[str, ...]) -> Program:
    """Compute compile() without the cache."""
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    source = file.read_bytes()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, file.name.encode(), 0, None, None)
    options = [*_options(architecture, defines), f"-I{file.parent}"]
    pointers = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), pointers)
    log, ptx, cubin = (_result(program, what) for what in ("ProgramLog", "PTX", "CUBIN"))
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    text = log.rstrip(b"\0").decode()
    if failed:
        raise RuntimeError(f"NVRTC does not compile {file.name} for sm_{architecture}:\n{text}")
    return Program(dict(_resources(text, ptx.rstrip(b"\0").decode())), cubin)


def _result(program: ctypes.c_void_p, what: str) -> bytes:
    """Return the result of nvrtcGet<what>, which is empty after an error."""
    size = ctypes.c_size_t()
    getattr(_nvrtc(), f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    buffer = ctypes.create_string_buffer(size.value)
    getattr(_nvrtc(), f"nvrtcGet{what}")(program, buffer)
    return buffer.raw


def _resources(log: str, ptx: str) -> Iterator[tuple[str, Resources]]:
    """Yield each kernel in source order; ptx: the code in PTX, the compiler's assembly language.

    The log has registers, spills and bytes; PTX has the block's threads.
    """
    logs = {part.partition("'")[0]: part for part in log.split("Compiling entry function '")[1:]}
    for body in re.split(r"\.entry\s+", ptx)[1:]:
        name = body.partition("(")[0]
        numbers = [
            sum(map(int, re.findall(pattern, logs[name])))
            for pattern in (
                r"Used (\d+) registers",
                r"(\d+) bytes spill",
                r"(\d+) bytes stack",
                r"(\d+) bytes smem",
            )
        ]
        bounds = re.search(r"\.maxntid ([\d, ]+)", body)  # one number, or three
        threads = math.prod(map(int, bounds[1].split(","))) if bounds else None
        yield name, Resources(*numbers, threads)
