"""The seam: it chooses the array library that holds the data and the kernels that compute on it.

    backend   arrays   kernels
    numpy     NumPy    minddpm.kernels.reference
    numba     NumPy    minddpm.kernels.cpu
    cupy      CuPy     minddpm.kernels.cuda (raw CUDA)

"cupy-reference" is CuPy with the reference kernels: plain CuPy calls, cuBLAS underneath.

The packages above this file write ``backend.xp.exp(x)`` for plain array code and
``backend.kernels.conv2d(...)`` for the hot operations, whichever backend is in use.
CuPy is imported only if it is chosen. With MINDDPM_CUDA=emulate in the environment a stand-in
on the CPU is imported instead (kernels/emulator/cupy_on_cpu/).
"""

import importlib
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from minddpm.errors import InputError
from minddpm.kernels.arrays import Array as Array
from minddpm.kernels.arrays import array_module as array_module
from minddpm.kernels.gpu import architecture, gpu_problem
from minddpm.kernels.gpu import device_problem as device_problem
from minddpm.kernels.jit import numba_problem
from minddpm.kernels.precision import PRECISIONS as PRECISIONS
from minddpm.kernels.precision import available_precisions, choose_precision
from minddpm.kernels.precision import precision as precision

# name: (array library, kernel set)
BACKENDS = {
    "numpy": ("numpy", "reference"),
    "numba": ("numpy", "cpu"),
    "cupy": ("cupy", "cuda"),
    "cupy-reference": ("cupy", "reference"),  # for comparison
}
NAMES = tuple(BACKENDS)

SMALL_BYTES = 1 << 14  # in arrays of at most this size, zlib checksums all bytes


@dataclass(frozen=True)
class Backend:
    """An array library and the kernel set that works on its arrays."""

    name: str
    xp: ModuleType
    kernels: ModuleType


_active: Backend | None = None


def set_backend(name: str) -> Backend:
    """Choose the backend of all arrays created after this call, with float32 convolutions.

    name: one of NAMES or "auto" (CuPy if a GPU responds, else Numba if it works, else NumPy).
    Raises InputError for an unknown name, or if CuPy, its GPU or Numba is missing.
    """
    global _active
    emulate = _emulates_cuda()
    if name == "auto":
        found = not emulate and gpu_problem() is None  # "auto" never chooses the emulator
        name = "cupy" if found else _numba_or_numpy()
    if name not in NAMES:
        raise InputError(f"unknown backend {name!r}: choose one of {', '.join(NAMES)} or auto.")
    on_gpu = BACKENDS[name][0] == "cupy"
    if on_gpu and emulate:
        _install_emulator()
    if on_gpu and (problem := gpu_problem()):
        raise InputError(problem)
    if name == "numba" and (problem := numba_problem()):
        raise InputError(problem)
    library, kernels = BACKENDS[name]
    choose_precision("float32")
    _active = Backend(
        name,
        importlib.import_module(library),
        importlib.import_module(f"minddpm.kernels.{kernels}"),
    )
    # From here on backend.xp and backend.kernels are ordinary names (before: __getattr__).
    globals().update(xp=_active.xp, kernels=_active.kernels)
    return _active


def set_threads(n: int | None, sharing: int = 1) -> int | None:
    """Set the active backend's number of threads; None: as many as this process may use.

    sharing: processes that share the cores; with None, each gets its share of them.
    Returns the number, or None if the array library decides it (numpy and cupy).
    Raises InputError for a number below 1 or above the machine's maximum.
    """
    if n is not None and n < 1:
        raise InputError(f"{n} threads: choose --threads 1 or more.")
    if active().name != "numba":
        return None
    threads = importlib.import_module("minddpm.kernels.cpu.threads")
    if n is None and sharing > 1:
        n = max(1, threads.default_threads() // sharing)
    return threads.set_threads(n)


def set_device(i: int) -> None:
    """Let this process, the i-th of its machine, use a GPU of its own if there are several."""
    if BACKENDS[active().name][0] == "cupy":
        cuda = active().xp.cuda
        cuda.Device(i % cuda.runtime.getDeviceCount()).use()


def begin_sum(comm: Any, x: Array) -> Callable[[], None]:
    """Begin to add up x over the ranks of an MPI communicator, in place; on a GPU by NCCL.

    Returns the function to call before x is used.
    """
    module = "mpi" if array_module(x) is np else "cuda.nccl"
    return importlib.import_module(f"minddpm.kernels.{module}").begin_all_reduce(comm, x)


def set_precision(name: str) -> str:
    """Set the type to which convolutions round their factors; sums and statistics stay float32.

    name: "float32" (no rounding), "tf32" (11 significant bits, the range of float32), "fp16" (11
    significant bits, from 6e-8 to 65504) or "bf16" (8 significant bits, the range of float32).
    Rounding is faster. fp16 and bf16 also store silu(norm(x)) in 16 bits. Returns name.
    Raises InputError for an unknown name, or if the backend or GPU does not support the precision.
    """
    if name not in PRECISIONS:
        raise InputError(f"unknown precision {name!r}: choose {', '.join(PRECISIONS)}.")
    if name != "float32" and active().name != "cupy":
        raise InputError(
            f"precision {name} needs a GPU's tensor cores, but the backend is {active().name}: "
            "choose --backend cupy, or --precision float32."
        )
    if name != "float32" and name not in precisions():
        raise InputError(
            f"precision {name} needs a GPU of sm_{PRECISIONS[name]} or newer, but this one is "
            f"sm_{architecture(active().xp.cuda)}: choose another --precision."
        )
    return choose_precision(name)


def precisions() -> list[str]:
    """Return the PRECISIONS that the active GPU supports; without a GPU only float32."""
    on_gpu = BACKENDS[active().name][0] == "cupy"
    return available_precisions(active().xp.cuda) if on_gpu else ["float32"]


def compile_ahead(run: Callable[[], Any]) -> None:
    """Compile the kernels that run() launches on a GPU, several files at a time.

    run: called without running a kernel, so its results are undefined. Elsewhere it is not called:
    the emulator and the CPU compile each kernel when it is first used.
    """
    if active().kernels.__name__ == "minddpm.kernels.cuda" and not _emulates_cuda():
        importlib.import_module("minddpm.kernels.cuda.ahead").compile_ahead(run)


def active() -> Backend:
    """Return the backend in use; the first call chooses MINDDPM_BACKEND, by default "auto"."""
    return _active or set_backend(os.environ.get("MINDDPM_BACKEND", "auto"))


def __getattr__(name: str) -> ModuleType:
    # Python calls this for a missing name: backend.xp and backend.kernels, until set_backend has
    # assigned them. Write backend.xp, never "from minddpm.backend import xp": that name would not
    # follow a change of backend.
    if name in ("xp", "kernels"):
        return getattr(active(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def to_numpy(x: Array) -> np.ndarray:
    """Return x (an array, list or number) as a NumPy array on the host; copies only if needed."""
    xp = array_module(x)
    return np.asarray(x) if xp is np else xp.asnumpy(x)


def is_readable(x: Array) -> bool:
    """Return whether the host may read values now: not on a device while kernels are recorded."""
    return array_module(x) is np or not active().kernels.is_recording()


# Above SMALL_BYTES, checksumming the column sums of x, as a matrix with 509 words per row, takes a
# tenth of the time. 509 is prime: reversing or shifting an image moves its words to other columns.
def fingerprint(x: Array) -> int | None:
    """Return a checksum of the bytes of x; None on a device, where it would synchronise."""
    if not isinstance(x, np.ndarray):
        return None
    data = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    if data.size <= SMALL_BYTES:
        return zlib.adler32(data)
    end = data.size // (8 * 509) * (8 * 509)
    columns = np.add.reduce(data[:end].view(np.uint64).reshape(-1, 509), axis=0)
    return zlib.adler32(data[end:], zlib.adler32(columns.view(np.uint8)))


def freeze(x: Array) -> bool:
    """Make a host array read-only; return whether it was writable. Device arrays have no flag."""
    if not isinstance(x, np.ndarray) or not x.flags.writeable:
        return False
    x.flags.writeable = False
    return True


def thaw(x: np.ndarray) -> None:
    """Make an array that freeze() made read-only writable again."""
    x.flags.writeable = True


def _emulates_cuda() -> bool:
    """Return whether MINDDPM_CUDA is "emulate"; InputError for an unknown value."""
    value = os.environ.get("MINDDPM_CUDA", "")
    if value not in ("", "emulate"):
        raise InputError(f"unknown MINDDPM_CUDA={value!r}: unset it, or choose emulate.")
    return value == "emulate"


def _install_emulator() -> None:
    """Install the stand-in as CuPy, with a message the first time."""
    emulator = importlib.import_module("minddpm.kernels.emulator.cupy_on_cpu")
    if sys.modules.get("cupy") is not emulator:
        emulator.install()
        print("MINDDPM_CUDA=emulate: CuPy is emulated on the CPU", file=sys.stderr)


def _numba_or_numpy() -> str:
    """Return "numba", or "numpy" with a message if Numba cannot be used."""
    problem = numba_problem()
    if problem:
        print(f"using NumPy, which is slower: {problem}", file=sys.stderr)
    return "numpy" if problem else "numba"
