"""Python threads that use the kernels at once: each gets the results that it gets alone."""

import os
import subprocess
import sys

import numpy as np
import pytest
from builders import TINY, random_unet
from python_threads import at_once, sample_at_once

import minddpm
from minddpm import nn, random
from minddpm.kernels.cpu import constant_weights
from minddpm.kernels.cpu.constant_weights import from_weights

DIFFUSION = minddpm.GaussianDiffusion(minddpm.schedules.linear(1000))


@pytest.mark.parametrize("backend", ["numpy", "numba"])
@pytest.mark.parametrize("count", [2, 8])
def test_samples_drawn_at_once_are_those_drawn_alone(backend, count):
    minddpm.set_backend(backend)
    assert sample_at_once(count, times=10) == 0


def trained(seed):
    """Return the weights of a model with dropout after five training steps."""
    unet = random_unet({**TINY, "dropout": 0.3}, scale=0.1).train()
    optimizer = nn.Adam(unet.parameters(), lr=1e-3)
    for step in range(5):
        minddpm.manual_seed(seed, step)
        x0 = random.normal((4, 8, 8, 1), seed, random.CHECK, step)
        noise = random.normal(x0.shape, seed, random.NOISE, step)
        DIFFUSION.training_losses(unet, x0, np.arange(4) * 30, noise).mean().backward()
        optimizer.step(1.0)
        optimizer.zero_grad()
    return optimizer.flat.data


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_trainings_beside_a_sampler_are_those_alone(backend):
    minddpm.set_backend(backend)
    model, shape = random_unet(scale=0.1), (2, 8, 8, 1)

    def sample(seed):
        with minddpm.backend.kernels.constant_weights():
            *_, step = minddpm.samplers.ddim(DIFFUSION, minddpm.replayed(model), shape, 20)
        return step.x

    works = [(trained, 1), (sample, 0), (trained, 2)]
    alone = [work(seed) for work, seed in works]
    for one, other in zip(alone, at_once(works), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_preview_does_not_turn_off_the_dropout_of_the_training():
    unet = random_unet({**TINY, "dropout": 0.3}).train()
    modes = []
    minddpm.generate(
        (unet, DIFFUSION), 1, "ddim", 2, watch=lambda start, step: modes.append(unet.training)
    )
    assert modes == [True, True]


NUMBER = """
import threading, numba, minddpm
minddpm.set_backend("numba")
minddpm.backend.set_threads(1)
def draw():
    minddpm.random.normal((2, 3), 0, 0)
    print(numba.get_num_threads())
thread = threading.Thread(target=draw)
thread.start()
thread.join()
"""


def test_the_number_of_numbas_threads_holds_in_every_python_thread():
    done = in_a_new_process(NUMBER, NUMBA_THREADING_LAYER="workqueue", NUMBA_NUM_THREADS="2")
    assert done.stdout == "1\n", done.stderr


def test_only_the_thread_that_declared_the_weights_constant_caches():
    minddpm.set_backend("numba")
    w = np.ones(3, np.float32)

    def twice(seed):
        first = from_weights(np.copy, w)
        return from_weights(np.copy, w) is first

    with constant_weights():
        assert twice(0)
        assert at_once([(twice, 0)]) == [False]


def test_random_draws_inside_models_are_of_each_thread():
    minddpm.manual_seed(3)

    def draw(seed):
        minddpm.manual_seed(seed)
        return random.ambient_stream(random.DROPOUT)

    at_once([(draw, 7), (draw, 8)])
    assert random.ambient_stream(random.DROPOUT)[0] == 3


def in_a_new_process(code, **variables):
    """Run Python code that may end its process; return the completed process."""
    path = os.pathsep.join([os.path.dirname(__file__) + "/..", os.path.dirname(__file__)])
    path += os.pathsep + os.path.dirname(__file__) + "/../reliability"
    environment = {**os.environ, "PYTHONPATH": path, **variables}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=120
    )


def test_numbas_own_layer_does_not_end_the_process():
    code = "import minddpm, python_threads as p; minddpm.set_backend('numba'); "
    done = in_a_new_process(
        code + "print(p.sample_at_once(4, 5))", NUMBA_THREADING_LAYER="workqueue"
    )
    assert (done.returncode, done.stdout) == (0, "0\n"), done.stderr


FORK = """
import multiprocessing, minddpm
from minddpm import random
def draw(i): return random.normal((2,), i, 0)
{before}
with multiprocessing.get_context("fork").Pool(1) as pool:
    try: print(len(pool.map(draw, [1])))
    except minddpm.errors.InputError as error: print(error)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_gets_one_sentence_instead_of_a_hang():
    used = in_a_new_process(FORK.format(before="minddpm.set_backend('numba')"))
    assert "multiprocessing.get_context('spawn')" in used.stdout, used.stderr
    for backend in ("numpy", "numba"):  # the child chooses the backend, or it is numpy
        before = "minddpm.set_backend('numpy')" if backend == "numpy" else ""
        done = in_a_new_process(FORK.format(before=before), MINDDPM_BACKEND=backend)
        assert done.stdout == "1\n", done.stderr
