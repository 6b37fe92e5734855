"""Threads: the default number, the messages, and results that do not depend on the number."""

import importlib.util
import os
import subprocess
import sys

import numba
import numpy as np
import pytest

import minddpm
from minddpm import backend, nn, random
from minddpm.kernels.cpu import cores, numba_layers, threads
from refusals import refused

MOST = numba.config.NUMBA_NUM_THREADS


pytestmark = pytest.mark.usefixtures("numba_with_its_threads")


def quota(tmp_path, groups, files):
    """Return cpu_quota() for this /proc/self/cgroup and these files of control groups."""
    proc = tmp_path / "cgroup"
    proc.write_text(groups)
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text)
    return cores.cpu_quota(str(proc), str(tmp_path / "fs"))


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, None),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        ("0::/\n", {"cpu.max": "250000 100000\n"}, 2.5),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/a\n", {"a/cpu.max": "300000 100000\n", "cpu.max": "200000 100000\n"}, 2.0),
        ("0::/seen/from/outside\n", {"cpu.max": "200000 100000\n"}, 2.0),
        ("0::/\n", {"cpu.max": "nonsense"}, None),
        (
            "5:memory:/m\n2:cpu,cpuacct:/a\n1:cpuset:/\n",
            {"cpu/a/cpu.cfs_quota_us": "150000\n", "cpu/a/cpu.cfs_period_us": "100000\n"},
            1.5,
        ),
        ("2:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_the_quota_of_a_container(tmp_path, groups, files, expected):
    assert quota(tmp_path, groups, files) == expected


def test_a_machine_without_control_groups(tmp_path):
    assert cores.cpu_quota(str(tmp_path / "missing"), str(tmp_path)) is None


@pytest.mark.parametrize(
    ("affinity", "limit", "expected"), [(8, None, 8), (8, 2.5, 3), (8, 0.1, 1), (2, 16.0, 2)]
)
def test_usable_cores_are_the_minimum_of_cores_and_quota(monkeypatch, affinity, limit, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    monkeypatch.setattr(cores, "cpu_quota", lambda: limit)
    assert cores.usable_cores() == expected


def test_the_environment_variable_sets_the_default(monkeypatch):
    monkeypatch.setattr(threads, "usable_cores", lambda: 1)
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    assert backend.set_threads(None) == 1
    monkeypatch.setenv("NUMBA_NUM_THREADS", str(MOST))
    assert backend.set_threads(None) == MOST


def test_bad_numbers_are_refused():
    for n in (0, -3):
        with refused(f"{n} threads", "--threads 1"):
            backend.set_threads(n)
    with refused("33 threads", "--threads 1 .. 32"):
        backend.set_threads(33)


def test_numbas_layers_name_the_variable_for_more_threads():
    code = "import minddpm; minddpm.set_backend('numba'); minddpm.backend.set_threads(3)"
    more = numba_in_a_new_process(code, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS="2")
    assert "3 threads: choose --threads 1 .. 2, or start more" in more.stderr
    assert "NUMBA_NUM_THREADS=3" in more.stderr


def test_the_numpy_backend_has_no_number_of_threads():
    minddpm.set_backend("numpy")
    assert backend.set_threads(3) is None


def test_without_openmp_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(numba.config, "THREADING_LAYER", "default")
    for layer, lines in (("omp", 0), ("workqueue", 1)):
        monkeypatch.setattr(numba, "threading_layer", lambda layer=layer: layer)
        numba_layers.load_layer()
        stderr = capsys.readouterr().err
        assert stderr.count("\n") == lines
        assert ("libgomp" in stderr or "libomp" in stderr) == (lines == 1)


LAYER = "import minddpm, numba; minddpm.set_backend('numba'); print(numba.threading_layer())"


def numba_in_a_new_process(code=LAYER, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment | variables)


def test_the_environment_variable_chooses_the_layer():
    assert numba_in_a_new_process(NUMBA_THREADING_LAYER="workqueue").stdout == "workqueue\n"
    for layer, remedy in (("pigeons", "choose omp or tbb"), ("tbb", "pip install tbb")):
        if importlib.util.find_spec(layer) is None:
            wrong = numba_in_a_new_process(NUMBA_THREADING_LAYER=layer).stderr.strip().splitlines()
            assert f"InputError: Numba has no threading layer {layer!r} here: {remedy}" in wrong[-1]


def trained(n):
    """Return the weights and their average after three steps with n threads."""
    backend.set_threads(n)
    minddpm.manual_seed(0)
    unet = minddpm.UNet2D(**{**minddpm.SMALL, "sample_size": 8})
    optimizer = nn.Adam(unet.parameters(), lr=1e-3)
    ema = nn.EMA(optimizer.flat, 0.9)
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(100))
    for step in range(3):
        x0 = random.normal((4, 8, 8, 1), 0, random.CHECK, step)
        x_t, noise = diffusion.q_sample_normal(x0, np.arange(4) * 30, 0, random.NOISE, step)
        loss = diffusion.training_losses(unet, x0, np.arange(4) * 30, noise, x_t=x_t).mean()
        loss.backward()
        optimizer.step(1.0, ema)
        optimizer.zero_grad()
    return optimizer.flat.data, ema.average


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_weights_do_not_depend_on_the_threads(n):
    for one, other in zip(trained(2), trained(n), strict=True):
        np.testing.assert_array_equal(one, other)


def test_random_numbers_and_the_norm_do_not_depend_on_the_threads():
    results = []
    for n in (1, 2, 3, 32):
        backend.set_threads(n)
        z = random.normal((600_003,), 0, random.CHECK)  # enough chunks for two pieces a thread
        results.append((z.tobytes(), backend.kernels.squared_norm(z)))
    assert all(result == results[0] for result in results)
