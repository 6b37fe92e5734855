"""Algorithms 1 and 2 as the paper prints them are what the trainer and the sampler compute."""

import ast
import inspect

import numpy as np
import pytest

import minddpm
from minddpm import backend
from minddpm.data import ImageDataset, batch_indices, to_float
from minddpm.diffusion import algorithms
from minddpm.diffusion.schedules import cosine, linear
from minddpm.training import Trainer, TrainingOptions
from minddpm.training.run_directory import RunDirectory

TINY = {
    "sample_size": 8, "in_channels": 1, "out_channels": 1, "block_out_channels": (4, 8),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"), "layers_per_block": 1, "norm_num_groups": 2,
}  # fmt: skip
DATA = ImageDataset(
    np.random.default_rng(0).integers(0, 256, (20, 8, 8, 1), dtype=np.uint8), None, "noise"
)


def tiny_unet():
    """The same at every call, without the zeros that training begins with."""
    minddpm.manual_seed(0)
    unet = minddpm.UNet2D(**TINY)
    for parameter in unet.parameters():
        parameter.data = parameter.data + 0.02
    return unet


@pytest.mark.parametrize("step", [0, 7])
def test_algorithm_1_has_the_trainers_loss_and_gradient(any_backend, tmp_path, step):
    betas, options = linear(50), TrainingOptions(batch_size=4, seed=3)
    trainer = Trainer(
        tiny_unet(), minddpm.GaussianDiffusion(betas), DATA, RunDirectory(tmp_path), options
    )
    losses, _, _ = trainer._backward(step)
    expected = backend.to_numpy(trainer.optimizer.flat.grad)

    unet = tiny_unet().train()
    flat = minddpm.nn.Adam(unet.parameters(), lr=0.0).flat
    chosen = batch_indices(len(DATA), 4, step, options.seed)
    x0 = backend.xp.asarray(to_float(DATA.images[chosen]))
    loss = algorithms.training_loss(unet, x0, betas, options.seed, step)
    loss.backward()
    assert loss.item() == pytest.approx(float(backend.to_numpy(losses).mean()), rel=1e-5)
    gradient = backend.to_numpy(flat.grad)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert np.abs(gradient).max() > 1e-3


@pytest.mark.parametrize("schedule", [linear, cosine])
def test_algorithm_2_draws_the_images_of_the_sampler(any_backend, schedule):
    betas, unet = schedule(30), tiny_unet().eval()
    d = minddpm.GaussianDiffusion(betas, clip_x0=False)
    shape, data = (2, 8, 8, 1), lambda x, t: 0.1 * x + 0.01 * unet(x, t).data
    with minddpm.no_grad():
        ours = list(algorithms.sample(data, shape, betas, seed=5))
    theirs = list(minddpm.samplers.ddpm(d, data, shape, seed=5))
    assert len(ours) == len(theirs) == 30
    for x, step in zip(ours, theirs, strict=True):
        x, expected = backend.to_numpy(x), backend.to_numpy(step.x)
        np.testing.assert_allclose(x, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def test_they_are_short():
    """At most 60 lines of code in all: without blank lines, comments and docstrings."""
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
