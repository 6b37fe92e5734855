"""The training loss of the diffusion process against its formula."""

import math

import numpy as np
import pytest
from formulas import BETAS, PREDICTIONS, T, ac, images, perfect_output

from minddpm import GaussianDiffusion, Tensor, no_grad


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_training_loss_is_the_mean_square_of_each_image(prediction):
    d = GaussianDiffusion(BETAS, prediction)
    x0, noise, output, t = images(0), images(1), images(2), np.array([0, 9, T - 1])
    losses = d.training_losses(lambda x, t: Tensor(output), x0, t, noise)
    assert losses.shape == (3,)
    for n in range(3):
        target = perfect_output(prediction, t[n], x0[n], noise[n])
        squares = [(a - b) ** 2 for a, b in zip(target.ravel(), output[n].ravel(), strict=True)]
        assert losses.numpy()[n] == pytest.approx(sum(squares) / len(squares), rel=1e-12)


def test_the_model_gets_x_t_and_t():
    inputs = []

    def model(x, t):
        inputs.append((x, t))
        return Tensor(x)

    x0, noise, t = images(0), images(1), np.array([0, 9, T - 1])
    GaussianDiffusion(BETAS).training_losses(model, x0, t, noise)
    x_t, model_t = inputs[0]
    np.testing.assert_array_equal(model_t, t)
    for n in range(3):
        expected = math.sqrt(ac(t[n])) * x0[n] + math.sqrt(1 - ac(t[n])) * noise[n]
        np.testing.assert_allclose(x_t[n], expected, rtol=1e-12)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_gradient_of_the_loss(prediction):
    """For output = w x_t: d/dw mean (target - w x_t)^2 = mean -2 x_t (target - w x_t)."""
    d = GaussianDiffusion(BETAS, prediction)
    x0, noise, t = images(0), images(1), np.array([0, 9, T - 1])
    w = Tensor(np.full((1, 1, 1, 1), 0.3), requires_grad=True)
    d.training_losses(lambda x, t: w * x, x0, t, noise).mean().backward()
    gradient = 0.0
    for n in range(3):
        x_t = math.sqrt(ac(t[n])) * x0[n] + math.sqrt(1 - ac(t[n])) * noise[n]
        target = perfect_output(prediction, t[n], x0[n], noise[n])
        gradient += (-2 * x_t * (target - 0.3 * x_t)).mean() / 3
    assert w.grad.item() == pytest.approx(gradient, rel=1e-10)


def test_a_perfect_model_has_no_loss():
    for prediction in PREDICTIONS:
        d = GaussianDiffusion(BETAS, prediction)
        x0, noise, t = images(0), images(1), np.array([0, 9, T - 1])
        output = np.stack([perfect_output(prediction, t[n], x0[n], noise[n]) for n in range(3)])
        losses = d.training_losses(lambda x, t, y=output: Tensor(y), x0, t, noise)
        np.testing.assert_allclose(losses.numpy(), 0, atol=1e-25)


def test_no_grad_gives_the_same_loss_without_a_graph():
    d, x0, t = GaussianDiffusion(BETAS), images(0), np.array([0, 9, T - 1])
    w = Tensor(np.full((1, 1, 1, 1), 0.3), requires_grad=True)
    recorded = d.training_losses(lambda x, t: w * x, x0, t, x0)
    with no_grad():
        without_graph = d.training_losses(lambda x, t: w * x, x0, t, x0)
    np.testing.assert_array_equal(recorded.numpy(), without_graph.numpy())
    assert recorded.creator is not None
    assert without_graph.creator is None
