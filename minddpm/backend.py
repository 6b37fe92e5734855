"""The seam: which array library holds the data and which kernel set computes on it.

    backend   arrays   kernels
    numpy     NumPy    minddpm.kernels.reference
    numba     NumPy    minddpm.kernels.cpu
    cupy      CuPy     minddpm.kernels.cuda (raw CUDA)

"cupy-reference" is CuPy with the reference kernels: plain CuPy calls, cuBLAS underneath.

Everything above this file writes ``backend.xp.exp(x)`` for plain array code and
``backend.kernels.conv2d(...)`` for the hot operations, and never asks which one is running.
CuPy is imported only when it is asked for. With MINDDPM_CUDA=emulate in the environment a stand-in
on the CPU is imported in its place (kernels/emulator/cupy_on_cpu.py).
"""

import importlib
import importlib.util
import os
import sys
import zlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from minddpm.errors import InputError

Array = Any  # numpy.ndarray or cupy.ndarray: the two share the interface that this project uses

# name: (array library, kernel set)
BACKENDS = {
    "numpy": ("numpy", "reference"),
    "numba": ("numpy", "cpu"),
    "cupy": ("cupy", "cuda"),
    "cupy-reference": ("cupy", "reference"),  # cuBLAS underneath, to compare with
}
NAMES = tuple(BACKENDS)
EMULATOR = "minddpm.kernels.emulator"

SMALL_BYTES = 1 << 14  # up to here an array's whole bytes go through zlib's checksum


@dataclass(frozen=True)
class Backend:
    """An array library and the kernel set that works on its arrays."""

    name: str
    xp: ModuleType
    kernels: ModuleType


_active: Backend | None = None

# What the tensor cores of a GPU round their inputs to, and from which architecture on they can.
PRECISIONS = {"float32": 0, "tf32": 80, "fp16": 75, "bf16": 80}
_precision = "float32"


def set_backend(name: str) -> Backend:
    """Choose the backend for everything that is made from now on, in float32.

    name: "numpy", "numba", "cupy" or "auto" (CuPy where a GPU answers, else Numba if installed).
    Raises InputError for an unknown name, or if CuPy or its GPU is missing.
    """
    global _active, _precision
    emulate = _emulates_cuda()
    if name == "auto":
        found = not emulate and _gpu_problem() is None  # the emulator is no GPU worth choosing
        name = "cupy" if found else "numba" if _has_numba() else "numpy"
    if name not in NAMES:
        raise InputError(f"unknown backend {name!r}: choose one of {', '.join(NAMES)} or auto.")
    on_gpu = BACKENDS[name][0] == "cupy"
    if on_gpu and emulate:
        _install_emulator()
    if on_gpu and (problem := _gpu_problem()):
        raise InputError(problem)
    if name == "numba" and not _has_numba():
        raise InputError(
            "the numba backend needs Numba, which is not installed: pip install numba, "
            "or choose --backend numpy."
        )
    library, kernels = BACKENDS[name]
    _precision = "float32"
    _active = Backend(
        name,
        importlib.import_module(library),
        importlib.import_module(f"minddpm.kernels.{kernels}"),
    )
    return _active


def set_threads(n: int | None) -> int | None:
    """Run the active backend's kernels in n threads; None: in as many as this process may use.

    Returns the number, None where the array library decides it (numpy and cupy).
    Raises InputError for a number below 1, or above what the machine has.
    """
    if n is not None and n < 1:
        raise InputError(f"{n} threads: choose --threads 1 or more.")
    if active().name != "numba":
        return None
    return importlib.import_module("minddpm.kernels.cpu.threads").set_threads(n)


def set_precision(name: str) -> str:
    """Let convolutions round what they multiply, to be faster; sums and statistics stay float32.

    name: "float32" (nothing is rounded), "tf32" (11 binary digits, the range of float32), "fp16"
    (11 digits, no number above 65504 or below 6e-8) or "bf16" (8 digits, the range of float32).
    With the last two, silu(norm(x)) before such a convolution is stored in 16 bits. Returns it.
    Raises InputError for an unknown name, and where the backend or the GPU has no such cores.
    """
    global _precision
    if name not in PRECISIONS:
        raise InputError(f"unknown precision {name!r}: choose {', '.join(PRECISIONS)}.")
    if name != "float32" and active().name != "cupy":
        raise InputError(
            f"precision {name} is for a GPU's tensor cores, and this is the {active().name} "
            "backend: choose --backend cupy, or --precision float32."
        )
    if name != "float32" and name not in precisions():
        raise InputError(
            f"precision {name} needs a GPU of sm_{PRECISIONS[name]} or newer, and this one is "
            f"sm_{_architecture(active().xp.cuda)}: choose another --precision."
        )
    _precision = name
    return name


def precisions() -> list[str]:
    """Those of PRECISIONS that the GPU in use has the cores for; without one float32 alone."""
    library = BACKENDS[active().name][0]
    has = _architecture(active().xp.cuda) if library == "cupy" else 0
    return [name for name, least in PRECISIONS.items() if has >= least]


def _architecture(cuda: ModuleType) -> int:
    """80 for sm_80."""
    return int(cuda.Device().compute_capability)


def precision() -> str:
    """What set_precision chose."""
    return _precision


def active() -> Backend:
    """The backend in use; the first call picks MINDDPM_BACKEND, or "auto" where that is unset."""
    return _active or set_backend(os.environ.get("MINDDPM_BACKEND", "auto"))


def __getattr__(name: str) -> ModuleType:
    # backend.xp and backend.kernels follow set_backend: a plain variable, once imported, would not.
    if name in ("xp", "kernels"):
        return getattr(active(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def array_module(x: Array) -> ModuleType:
    """The library that made the array x: numpy or cupy."""
    # A CuPy array exists only if cupy was imported, so looking it up costs no import.
    cupy = sys.modules.get("cupy")
    return cupy if cupy is not None and isinstance(x, cupy.ndarray) else np


def to_numpy(x: Array) -> np.ndarray:
    """x (an array, list or number) on the host as a NumPy array; no copy if it is one already."""
    xp = array_module(x)
    return np.asarray(x) if xp is np else xp.asnumpy(x)


def fingerprint(x: Array) -> int | None:
    """A checksum of the bytes of x, or None on a device, where it would force a synchronisation."""
    if not isinstance(x, np.ndarray):
        return None
    data = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    if data.size <= SMALL_BYTES:
        return zlib.adler32(data)
    # The sums of its columns, as a matrix of 509 words in a row, take a tenth of the time. 509 is
    # prime: a picture or a kernel that is turned or shifted puts other words into each column.
    whole = data.size // (8 * 509) * (8 * 509)
    columns = np.add.reduce(data[:whole].view(np.uint64).reshape(-1, 509), axis=0)
    return zlib.adler32(data[whole:], zlib.adler32(columns.view(np.uint8)))


def freeze(x: Array) -> bool:
    """Make a host array read-only; True if it was writable. A device array has no such flag."""
    if not isinstance(x, np.ndarray) or not x.flags.writeable:
        return False
    x.flags.writeable = False
    return True


def thaw(x: np.ndarray) -> None:
    """Undo freeze."""
    x.flags.writeable = True


def _emulates_cuda() -> bool:
    """Whether MINDDPM_CUDA asks for it. Raises InputError for a value that it does not have."""
    value = os.environ.get("MINDDPM_CUDA", "")
    if value not in ("", "emulate"):
        raise InputError(f"unknown MINDDPM_CUDA={value!r}: unset it, or choose emulate.")
    return value == "emulate"


def _install_emulator() -> None:
    """Put the stand-in in CuPy's place, and say so the first time."""
    emulator = importlib.import_module(f"{EMULATOR}.cupy_on_cpu")
    if sys.modules.get("cupy") is not emulator:
        emulator.install()
        print("MINDDPM_CUDA=emulate: CuPy is emulated on the CPU", file=sys.stderr)


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None


INSTALL = (
    'pip install "minddpm[cuda12]" or "minddpm[cuda13]" (the CUDA version that nvidia-smi prints), '
    "or choose --backend numpy."
)
DRIVER = "install or update the NVIDIA driver, or choose --backend numpy."


def _gpu_problem() -> str | None:
    """Why CuPy cannot be used here, as one sentence with the remedy, or None if it can."""
    try:
        cupy = importlib.import_module("cupy")
    except ModuleNotFoundError:
        return f"the cupy backend needs CuPy, which is not installed: {INSTALL}"
    except Exception as error:  # a damaged installation fails in many ways
        return f"the cupy backend could not load CuPy ({_first_line(error)}): {INSTALL}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy has one class for every CUDA error, known only after import
        return f"the cupy backend found no usable GPU ({_first_line(error)}): {DRIVER}"
    if not count:
        return "the cupy backend found no GPU: choose --backend numpy."
    return _compiler_problem(cupy.cuda)


def _compiler_problem(cuda: ModuleType) -> str | None:
    """Why CUDA's compiler would not make kernels for the GPU; CuPy asks for it at the first one."""
    try:
        known = cuda.nvrtc.getSupportedArchs()
        version = ".".join(map(str, cuda.nvrtc.getVersion()))
    except Exception as error:
        return f"the cupy backend could not load CUDA's compiler ({_first_line(error)}): {INSTALL}"
    has = _architecture(cuda)
    # For a GPU that is newer than NVRTC CuPy takes the latest that it knows: good within a family.
    if has in known or (has > max(known) and has // 10 == max(known) // 10):
        return None
    return f"NVRTC {version}, CUDA's compiler, makes no code for this GPU of sm_{has}: {INSTALL}"


# What CuPy, the driver and cuBLAS say where a user can do something about it.
OUT_OF_MEMORY = (
    "Out of memory allocating", "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip
AS_RUNTIME_ERROR = "CuPy failed to load", "Failed to find CUDA headers"
NOT_FITTING = (
    *AS_RUNTIME_ERROR, "Failure finding", "NVRTC_ERROR", "--gpu-architecture",
    "cannot open source file", "CUDA_ERROR_NO_BINARY_FOR_GPU", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
)  # fmt: skip


def device_problem(error: BaseException) -> str | None:
    """What made the GPU fail, as one sentence with the remedy; None for any other error.

    What a wrong kernel does is none: that is for its author, with its traceback.
    """
    text, line = str(error), _first_line(error)
    from_cupy = type(error).__module__.startswith(("cupy", "cuda.", EMULATOR))
    if not from_cupy and not text.startswith(AS_RUNTIME_ERROR):
        return None
    if any(words in text for words in OUT_OF_MEMORY):
        return f"the GPU has not enough memory ({line}): choose a smaller --batch-size or model."
    if "cudaErrorInsufficientDriver" in text:
        return f"the NVIDIA driver is too old for this CuPy ({line}): {DRIVER}"
    if any(words in text for words in NOT_FITTING):
        return f"CuPy, CUDA's libraries and this GPU do not fit together ({line}): {INSTALL}"
    return None


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(" .:")
