"""The seam: which backend is chosen, and what is said where one cannot be."""

import subprocess
import sys

import numpy as np
import pytest

import minddpm
from minddpm import InputError, backend


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match=r"unknown backend 'torch': choose one of numpy, numba"):
        minddpm.set_backend("torch")


def test_a_missing_cupy_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"pip install .*cuda12.*nvidia-smi.*--backend numpy"):
        minddpm.set_backend("cupy")


def test_auto_takes_what_there_is(monkeypatch):
    monkeypatch.setattr(backend, "_gpu_problem", lambda: "no GPU")
    assert minddpm.set_backend("auto").name == "numba"
    monkeypatch.setattr(backend, "_has_numba", lambda: False)
    assert minddpm.set_backend("auto").name == "numpy"
    with pytest.raises(InputError, match="pip install numba"):
        minddpm.set_backend("numba")


def test_the_variable_chooses_the_first_backend(monkeypatch):
    monkeypatch.setattr(backend, "_active", None)
    monkeypatch.setenv("MINDDPM_BACKEND", "numpy")
    assert backend.active().name == "numpy"
    assert backend.xp is np


def test_importing_minddpm_compiles_nothing_and_loads_neither_numba_nor_cupy():
    code = "import sys, minddpm; print([m for m in ('numba', 'cupy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_kernel_set_has_the_names_and_signatures_of_the_reference():
    """Adding an operation to one set and not to the others fails here."""
    import inspect

    from minddpm.kernels import cpu, reference

    public = {
        name: function
        for name, function in vars(reference).items()
        if inspect.isfunction(function)
        and function.__module__ == reference.__name__
        and not name.startswith("_")
    }
    assert set(cpu.__all__) == set(public)
    for name, function in public.items():
        ours = inspect.signature(getattr(cpu, name)).parameters
        assert list(ours) == list(inspect.signature(function).parameters), name


def test_the_same_losses_on_every_backend(any_backend):
    """Three steps of a small model: the kernels may round differently, no more."""
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
