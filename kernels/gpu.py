"""The GPU in use, and why CuPy cannot use it: each reason is one sentence with its remedy."""

import importlib
from types import ModuleType


def architecture(cuda: ModuleType) -> int:
    """Return the GPU's architecture, 80 for sm_80; cuda: cupy.cuda."""
    return int(cuda.Device().compute_capability)


def multiprocessors(cuda: ModuleType) -> int:
    """Return the number of the GPU's multiprocessors; cuda: cupy.cuda."""
    return int(cuda.Device().attributes["MultiProcessorCount"])


INSTALL = (
    'pip install "minddpm[cuda12]" or "minddpm[cuda13]" (the CUDA version that nvidia-smi prints), '
    "or choose --backend numpy."
)
DRIVER = "install or update the NVIDIA driver, or choose --backend numpy."


def gpu_problem() -> str | None:
    """Return why CuPy cannot be used here, as one sentence with the remedy, or None if it can."""
    try:
        cupy = importlib.import_module("cupy")
    except ModuleNotFoundError:
        return f"the cupy backend needs CuPy, which is not installed: {INSTALL}"
    except Exception as error:  # a damaged installation fails in many ways
        return f"the cupy backend could not load CuPy ({_first_line(error)}): {INSTALL}"
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CuPy's class for all CUDA errors is known only after its import
        return f"the cupy backend found no usable GPU ({_first_line(error)}): {DRIVER}"
    if not count:
        return "the cupy backend found no GPU: choose --backend numpy."
    return _compiler_problem(cupy.cuda)


def _compiler_problem(cuda: ModuleType) -> str | None:
    """Return why NVRTC cannot compile kernels for the GPU, or None if it can.

    CuPy itself loads NVRTC only for the first kernel.
    """
    try:
        known = cuda.nvrtc.getSupportedArchs()
        version = ".".join(map(str, cuda.nvrtc.getVersion()))
    except Exception as error:
        return f"the cupy backend could not load CUDA's compiler ({_first_line(error)}): {INSTALL}"
    has = architecture(cuda)
    # For a GPU newer than NVRTC, CuPy takes NVRTC's latest architecture, valid within a family.
    if has in known or (has > max(known) and has // 10 == max(known) // 10):
        return None
    return f"NVRTC {version}, CUDA's compiler, makes no code for this GPU of sm_{has}: {INSTALL}"


# Parts of the messages of CuPy, the driver and cuBLAS for errors that a user can remedy.
OUT_OF_MEMORY = (
    "Out of memory allocating", "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY",
    "CUBLAS_STATUS_ALLOC_FAILED",
)  # fmt: skip
AS_RUNTIME_ERROR = (
    "CuPy failed to load", "Failed to find CUDA headers",
    "Failed to auto-detect CUDA root directory",  # CuPy 13: without headers
)  # fmt: skip
NOT_FITTING = (
    *AS_RUNTIME_ERROR, "Failure finding", "NVRTC_ERROR", "--gpu-architecture",
    "cannot open source file", "CUDA_ERROR_NO_BINARY_FOR_GPU", "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
)  # fmt: skip


def device_problem(error: BaseException) -> str | None:
    """Return why the GPU failed, as one sentence with the remedy, or None for any other error.

    An error of a wrong kernel returns None, too: its author needs the traceback.
    """
    text, line = str(error), _first_line(error)
    from_cupy = type(error).__module__.startswith(("cupy", "cuda.", "minddpm.kernels.emulator"))
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
