"""The machine that the checks run on, and compute-sanitizer, which finds faults in kernels."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from typing import NamedTuple

import minddpm
from minddpm import backend

TOOLS = ("memcheck", "racecheck")
FOUND = 77  # compute-sanitizer's exit code if it found a fault
# Said by one that could not run, as in a container that may not read the device's state
CANNOT = "Internal Sanitizer Error", "not supported"
SANITIZED = 40  # seconds, after which no further check begins
# Without CuPy's memory pool each array is one allocation; compute-sanitizer checks its bounds.
SHORT_CHECK = f"""
import time
import minddpm
cupy = minddpm.set_backend("cupy").xp
cupy.cuda.set_allocator(None)
from minddpm.gpucheck.kernel_checks import kernel_checks
checks, done, right = kernel_checks(quick=True), 0, 0
end = time.monotonic() + {SANITIZED}
while done < len(checks) and time.monotonic() < end:
    right += checks[done]().ok
    done += 1
print("ran", done, "of", len(checks), "checks,", right, "right")
raise SystemExit(right < done)
"""


class Verdict(NamedTuple):
    """The result of a tool of compute-sanitizer; ok is None if it did not run."""

    tool: str
    ok: bool | None
    summary: str


def is_emulated() -> bool:
    """Return whether the emulator's stand-in replaces CuPy."""
    return backend.xp.__name__ != "cupy"


def description() -> dict[str, str]:
    """Return the GPU, its driver and the versions of all software involved, as text."""
    facts = {"minddpm": minddpm.__version__, "Python": platform.python_version()}
    facts |= {"system": platform.platform()}
    if is_emulated():
        return {"GPU": "none: the emulator on the CPU, whose speed means nothing", **facts}
    cuda = backend.xp.cuda
    properties, device = cuda.runtime.getDeviceProperties(0), cuda.Device(0)
    return {
        "GPU": properties["name"].decode(),
        "compute capability": f"{properties['major']}.{properties['minor']}",
        "multiprocessors": f"{properties['multiProcessorCount']}",
        "memory": f"{device.mem_info[1] / 2**30:.1f} GiB",
        "driver": _nvidia_smi("driver_version", "{}"),
        "CUDA of the driver": _version(cuda.runtime.driverGetVersion()),
        "CUDA runtime": _version(cuda.runtime.runtimeGetVersion()),
        "NVRTC": ".".join(map(str, cuda.nvrtc.getVersion())),
        "CuPy": backend.xp.__version__,
        "PyTorch": _pytorch(),
        "diffusers": _installed("diffusers"),
        **facts,
    }


def pytorch_problem(*modules: str) -> str:
    """Return why PyTorch and these modules cannot be used on the GPU, or "" if they can."""
    for name in ("torch", *modules):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed"
    import torch

    return "" if torch.cuda.is_available() else f"PyTorch {torch.__version__} finds no GPU"


def _pytorch() -> str:
    if problem := pytorch_problem():
        return problem
    import torch

    return f"{torch.__version__}, cuDNN {torch.backends.cudnn.version()}"


def _installed(package: str) -> str:
    """Return the version of a package."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def state() -> dict[str, str]:
    """Return what changes while the checks run: clocks, temperature, power, and memory.

    The pool keeps what was ever needed, and so does the device's memory in use, by all processes.
    """
    pool = backend.xp.get_default_memory_pool()
    memory = {"memory of the pool": f"{pool.total_bytes() / 2**20:.0f} MiB"}
    if is_emulated():
        return memory
    free, total = backend.xp.cuda.Device().mem_info
    used = {"memory of the device in use": f"{(total - free) / 2**20:.0f} MiB"}
    fields = "clocks.sm,clocks.mem,temperature.gpu,power.draw"
    return {"clocks": _nvidia_smi(fields, "{}, memory {}, {} C, {}"), **memory, **used}


def _nvidia_smi(fields: str, text: str) -> str:
    """Return text with what nvidia-smi says of the first GPU, or why that is not available."""
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as problem:
        return f"not available: {problem}"
    lines = (done.stdout or done.stderr).splitlines() or ["without a message"]
    values = lines[0].split(", ")
    if done.returncode or len(values) != fields.count(",") + 1:
        return f"not available: {lines[0]}"
    return text.format(*values)


def _version(number: int) -> str:
    """Return 12.4 for 12040."""
    return f"{number // 1000}.{number % 1000 // 10}"


def sanitizer() -> str | None:
    """Return the path of compute-sanitizer, or None if it is not installed."""
    return shutil.which("compute-sanitizer")


def sanitized(tool: str) -> Verdict:
    """Run every kernel once, at small sizes, under this tool of compute-sanitizer, if it has time.

    It takes at most SANITIZED seconds and the check that began last. Results that are wrong under
    the tool fail it, even if it finds no fault.
    """
    if sanitizer() is None:
        return Verdict(tool, None, "compute-sanitizer is not on the PATH")
    done = subprocess.run(
        [sanitizer(), "--tool", tool, "--error-exitcode", str(FOUND), sys.executable, "-c",
         SHORT_CHECK],
        capture_output=True, text=True, env=os.environ,
    )  # fmt: skip
    lines = [line.strip("= ") for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    ran = [line for line in lines if line.startswith("ran ")]
    own = [line for line in lines if line not in ran] or ["silent"]
    said = next((line for line in own if "SUMMARY" in line), own[-1])
    errors = [line for line in own if "Error" in line]
    why = next((line for line in errors if any(words in line for words in CANNOT)), "")
    code = done.returncode
    if code != FOUND and (not ran or (code and why)):
        return Verdict(tool, None, ", ".join([why or said, *ran]))
    return Verdict(tool, code == 0, ", ".join([said, *ran]))
