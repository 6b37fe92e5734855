"""Algorithms 1 and 2 of the paper give the same results as the trainer and the sampler."""

import ast
import inspect

import numpy as np
import pytest
from builders import make_trainer, noise_images, shifted_unet

import minddpm
from minddpm import backend
from minddpm.data import batch_indices, to_float
from minddpm.diffusion import algorithms
from minddpm.diffusion.schedules import cosine, linear

DATA = noise_images(20)


@pytest.mark.parametrize("step", [0, 7])
def test_algorithm_1_gives_the_loss_and_gradient_of_the_trainer(any_backend, tmp_path, step):
    betas, seed = linear(50), 3
    trainer = make_trainer(tmp_path, shifted_unet(), DATA, batch_size=4, seed=seed)
    (losses,) = trainer._gradients(step, *trainer._batch(step))
    expected = backend.to_numpy(trainer.optimizer.flat.grad)

    unet = shifted_unet().train()
    flat = minddpm.nn.Adam(unet.parameters(), lr=0.0).flat
    chosen = batch_indices(len(DATA), 4, step, seed)
    x0 = backend.xp.asarray(to_float(DATA.images[chosen]))
    loss = algorithms.training_loss(unet, x0, betas, seed, step)
    loss.backward()
    assert loss.item() == pytest.approx(float(backend.to_numpy(losses).mean()), rel=1e-5)
    gradient = backend.to_numpy(flat.grad)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_algorithm_2_gives_the_steps_of_the_sampler(any_backend, schedule):
    betas, unet = schedule(30), shifted_unet().eval()
    d = minddpm.GaussianDiffusion(betas, clip_x0=False)
    shape, model = (2, 8, 8, 1), lambda x, t: 0.1 * x + 0.01 * unet(x, t).data
    with minddpm.no_grad():
        ours = list(algorithms.sample(model, shape, betas, seed=5))
    theirs = list(minddpm.samplers.ddpm(d, model, shape, seed=5))
    assert len(ours) == len(theirs) == 30
    for x, step in zip(ours, theirs, strict=True):
        x, expected = backend.to_numpy(x), backend.to_numpy(step.x)
        np.testing.assert_allclose(x, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_the_algorithms_are_short():
    """At most 60 lines of code together, without blank lines, comments and docstrings."""
    source = inspect.getsource(algorithms)
    tree = ast.parse(source)
    documented = (ast.Module, ast.FunctionDef)
    prose = {
        line
        for node in ast.walk(tree)
        if isinstance(node, documented) and ast.get_docstring(node)
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    lines = source.splitlines()
    code = [
        line
        for number, line in enumerate(lines, 1)
        if number not in prose and line.strip() and not line.strip().startswith("#")
    ]
    assert len(code) <= 60
