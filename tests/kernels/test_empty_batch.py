"""An empty batch gives an empty result on every backend: model, gradients, losses and samplers."""

import numpy as np
import pytest
from builders import host, random_unet

import minddpm
from minddpm import backend, nn
from minddpm.generate import SAMPLERS

DIFFUSION = minddpm.GaussianDiffusion(minddpm.schedules.linear(1000))


def empty_images():
    return backend.xp.zeros((0, 8, 8, 1), "float32"), np.zeros(0, np.int64)


@pytest.mark.parametrize(
    "changes", [{}, {"dropout": 0.3, "resnet_time_scale_shift": "scale_shift"}]
)
def test_the_model_and_its_gradients(any_backend, changes):
    unet, (x, t) = random_unet(**changes).train(), empty_images()
    y = unet(x, t)
    assert y.shape == x.shape
    y.backward(y.data)
    assert all(not host(p.grad).any() for p in unet.parameters())


def test_the_loss_of_each_image(any_backend):
    x0, t = empty_images()
    losses = DIFFUSION.training_losses(random_unet(), x0, t, x0)
    assert losses.shape == (0,)
    assert np.isnan(losses.mean().item())


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_samplers(any_backend, name):
    if name.endswith("adaptive"):
        pytest.importorskip("scipy")
    model = minddpm.replayed(random_unet())
    *_, step = SAMPLERS[name](DIFFUSION, model, (0, 8, 8, 1), 2)
    assert step.x.shape == step.pred_x0.shape == (0, 8, 8, 1)


def test_a_linear_layer(any_backend):
    layer = nn.Linear(3, 5)
    y = layer(minddpm.Tensor(backend.xp.zeros((0, 3), "float32")))
    assert y.shape == (0, 5)
    y.backward(y.data)
    assert not host(layer.weight.grad).any()
