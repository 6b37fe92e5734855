"""NVRTC without a GPU: whether a kernel compiles for a given architecture, and what it needs there.

CUDA's own compiler comes as a wheel (pip install nvidia-cuda-nvrtc) and runs on any Linux machine.
It makes the code of a GPU that need not be there, and says how many registers a thread takes and
how much of them did not fit (spills, which go through memory).
"""

import ctypes
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from minddpm.errors import InputError

# T4, A100, RTX 30, RTX 40, H100, B200, RTX 50
ARCHITECTURES = (75, 80, 86, 89, 90, 100, 120)


class Resources(NamedTuple):
    """What one kernel needs on one architecture: registers of a thread, bytes of the others."""

    registers: int
    spills: int
    shared: int


def available() -> bool:
    """Whether the wheel is installed."""
    return in_wheels("libnvrtc.so*") is not None


def in_wheels(pattern: str) -> Path | None:
    """The first file of this name in NVIDIA's wheels, whose folders differ from version to version.

    None if no wheel has it.
    """
    nvidia = importlib.util.find_spec("nvidia")
    folders = nvidia.submodule_search_locations or () if nvidia else ()
    return next((file for folder in folders for file in Path(folder).rglob(pattern)), None)


@cache
def _nvrtc() -> ctypes.CDLL:
    library = in_wheels("libnvrtc.so*")
    if library is None:
        raise InputError("NVRTC is not installed: pip install nvidia-cuda-nvrtc.")
    return ctypes.CDLL(str(library))


def compile(file: Path, architecture: int, defines: tuple[str, ...] = ()) -> dict[str, Resources]:
    """Compile a .cu file for sm_<architecture>; what each of its kernels needs.

    defines: macros, "NAME" or "NAME=value". CUDA's own headers are found if their wheels are there
    (nvidia-cuda-runtime, and nvidia-cuda-crt for what mma.h includes). Raises RuntimeError with the
    compiler's words if it refuses, InputError without NVRTC.
    """
    nvrtc, program = _nvrtc(), ctypes.c_void_p()
    source = file.read_bytes()
    nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, file.name.encode(), 0, None, None)
    options = [f"--gpu-architecture=sm_{architecture}", "--ptxas-options=-v", f"-I{file.parent}"]
    options += [f"-D{define}" for define in defines]
    if header := in_wheels("cuda_fp16.h"):
        options.append(f"-I{header.parent}")
    pointers = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
    failed = nvrtc.nvrtcCompileProgram(program, len(options), pointers)
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    text = log.value.decode()
    if failed:
        raise RuntimeError(f"NVRTC does not compile {file.name} for sm_{architecture}:\n{text}")
    return dict(_resources(text))


def _resources(log: str) -> Iterator[tuple[str, Resources]]:
    for part in log.split("Compiling entry function '")[1:]:
        name = part.partition("'")[0]
        numbers = [
            sum(map(int, re.findall(pattern, part)))
            for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill", r"(\d+) bytes smem")
        ]
        yield name, Resources(*numbers)
