"""The backend: which one is chosen, and the message if it cannot be used."""

import errno
import subprocess
import sys

import numpy as np
import pytest

import minddpm
from minddpm import InputError, backend
from minddpm.commands import cli
from refusals import refused


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"unknown backend 'torch': choose one of numpy, numba"):
        minddpm.set_backend("torch")


def test_without_cupy_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install .*cuda12.*nvidia-smi.*--backend numpy"):
        minddpm.set_backend("cupy")


def fails(error):
    def function(*_):
        raise error

    return function


def cupy_error(module, name, message):
    """Return an error with CuPy's message, of a class with CuPy's name and module."""
    return type(name, (RuntimeError,), {"__module__": module})(message)


NO_DRIVER = cupy_error(
    "cupy_backends.cuda.api.runtime", "CUDARuntimeError", "cudaErrorInsufficientDriver: "
)
NO_COMPILER = cupy_error(
    "cuda.pathfinder", "DynamicLibNotFoundError", 'Failure finding "libnvrtc.so.12"\n'
)


def test_for_an_unusable_gpu_the_message_says_what_to_install(emulated_cupy, monkeypatch):
    cuda = emulated_cupy.cuda
    for holder, name, value, words in (
        (cuda.runtime, "getDeviceCount", fails(NO_DRIVER), ("Insufficient", "update the NVIDIA")),
        (cuda.runtime, "getDeviceCount", lambda: 0, ("no GPU", "--backend numpy")),
        (cuda.nvrtc, "getSupportedArchs", fails(NO_COMPILER), ("libnvrtc", "cuda12", "cuda13")),
        (cuda.nvrtc, "getSupportedArchs", lambda: (90, 100), ("NVRTC 12.0", "sm_80", "cuda12")),
        (cuda.Device, "compute_capability", "120", ("makes no code", "sm_120", "cuda13")),
    ):
        with monkeypatch.context() as patch, refused(*words):
            patch.setattr(holder, name, value)
            minddpm.set_backend("cupy")
    # CuPy uses the latest architecture that NVRTC knows: its code also runs on newer ones of the
    # same family.
    monkeypatch.setattr(cuda.Device, "compute_capability", "86")
    assert minddpm.set_backend("cupy").name == "cupy"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (NO_DRIVER, ["driver is too old", "update the NVIDIA driver"]),
        (NO_COMPILER, ["libnvrtc", "cuda12", "nvidia-smi"]),
        (RuntimeError("CuPy failed to load libcublas.so.12: OSError: "), ["libcublas", "cuda12"]),
        (RuntimeError("Failed to find CUDA headers. Please install"), ["headers", "cuda12"]),
        (RuntimeError("Failed to auto-detect CUDA root directory. Please"), ["root", "cuda12"]),
        (
            cupy_error("cupy.cuda.compiler", "CompileException", "nvrtc: error: invalid value for "
                 "--gpu-architecture (-arch)\n"),
            ["do not fit", "--gpu-architecture", "cuda13"],
        ),
        (
            cupy_error("cupy_backends.cuda.api.driver", "CUDADriverError",
                 "CUDA_ERROR_NO_BINARY_FOR_GPU: no kernel image"),
            ["do not fit", "no kernel image", "cuda13"],
        ),
        (
            cupy_error("cupy.cuda.memory", "OutOfMemoryError",
                       "Out of memory allocating 1,024 bytes."),
            ["not enough memory", "1,024 bytes)", "--batch-size"],
        ),
        (
            cupy_error("cupy_backends.cuda.api.runtime", "CUDARuntimeError",
                 "cudaErrorMemoryAllocation: out of memory"),
            ["not enough memory", "--batch-size"],
        ),
        (MemoryError(), ["not enough memory: choose smaller numbers"]),
        (MemoryError("Unable to allocate 1 TiB"), ["not enough memory (Unable to allocate 1 TiB)"]),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), ["not enough memory: choose"]),
        (
            ImportError("/lib/x.so: failed to map segment from shared object"),
            ["not enough memory: choose"],
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else type(value).__name__,
)  # fmt: skip
def test_an_error_of_the_device_becomes_one_sentence(error, words, capsys):
    assert cli.run(fails(error)) == 2
    stderr = capsys.readouterr().err
    assert stderr.startswith("error: ")
    assert stderr.endswith(".\n")
    assert stderr.count("\n") == 1
    for word in words:
        assert word in stderr


def test_other_errors_keep_their_traceback():
    illegal = cupy_error(
        "cupy_backends.cuda.api.runtime", "CUDARuntimeError", "cudaErrorIllegalAddress"
    )
    for error in (illegal, RuntimeError("cannot open source file"), ValueError("NVRTC_ERROR")):
        with pytest.raises(type(error)):
            cli.run(fails(error))


def test_auto_chooses_the_best_backend_present(monkeypatch):
    monkeypatch.setattr(backend, "gpu_problem", lambda: "no GPU")
    assert minddpm.set_backend("auto").name == "numba"
    monkeypatch.setitem(sys.modules, "numba", None)  # as if it were not installed
    assert minddpm.set_backend("auto").name == "numpy"
    with pytest.raises(InputError, match="pip install numba"):
        minddpm.set_backend("numba")


def test_the_environment_variable_chooses_the_first_backend(monkeypatch):
    monkeypatch.setattr(backend, "_active", None)
    monkeypatch.setenv("MINDDPM_BACKEND", "numpy")
    assert backend.active().name == "numpy"
    assert backend.xp is np


def test_importing_minddpm_compiles_nothing_and_loads_neither_numba_nor_cupy():
    code = "import sys, minddpm; print([m for m in ('numba', 'cupy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_kernel_set_has_the_names_and_signatures_of_the_reference():
    """An operation that is added to one kernel set only fails here."""
    import inspect

    from minddpm.kernels import cpu, reference

    public = {
        name: function
        for name, function in vars(reference).items()
        if inspect.isfunction(function)
        and function.__module__.startswith(reference.__name__)
        and not name.startswith("_")
    }
    assert set(cpu.__all__) == set(public)
    for name, function in public.items():
        ours, theirs = (
            [
                p.name
                for p in inspect.signature(f).parameters.values()
                if p.kind is not p.KEYWORD_ONLY  # keywords choose the kernels of a composition
            ]
            for f in (getattr(cpu, name), function)
        )
        assert ours == theirs, name


def test_the_same_losses_on_every_backend(any_backend):
    """Three steps of a small model: the kernels may differ only in rounding."""
    from minddpm import nn, random

    config = {**minddpm.SMALL, "block_out_channels": (8, 16, 16), "norm_num_groups": 4}
    losses = {}
    for name in ("numpy", any_backend):
        minddpm.set_backend(name)
        minddpm.manual_seed(0)
        unet = minddpm.UNet2D(**config)
        optimizer = nn.Adam(unet.parameters(), lr=1e-3)
        diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(100))
        x0 = random.normal((4, 28, 28, 1), 0, random.CHECK)
        losses[name] = []
        for step in range(3):
            noise = random.normal(x0.shape, 0, random.NOISE, step)
            loss = diffusion.training_losses(unet, x0, np.arange(4) * 30, noise).mean()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[name].append(loss.item())
    np.testing.assert_allclose(losses[any_backend], losses["numpy"], rtol=1e-4)
