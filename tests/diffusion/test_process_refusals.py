"""Bad input to the diffusion process: t, shapes, names, betas and timesteps."""

import numpy as np
import pytest
from formulas import BETAS, PREDICTIONS, VARIANCES, T, images

from minddpm import GaussianDiffusion, Tensor
from minddpm.diffusion.schedules import linear
from minddpm.errors import InputError
from refusals import refused

CALLS = {
    "q_step": lambda d, x, t: d.q_step(x, t, x),
    "q_sample": lambda d, x, t: d.q_sample(x, t, x),
    "q_sample_normal": lambda d, x, t: d.q_sample_normal(x, t, 0, 0),
    "q_mean_variance": lambda d, x, t: d.q_mean_variance(x, t),
    "q_posterior_mean_variance": lambda d, x, t: d.q_posterior_mean_variance(x, x, t),
    "predict_x0": lambda d, x, t: d.predict_x0(x, t, x),
    "predict_eps": lambda d, x, t: d.predict_eps(x, t, x),
    "p_mean_variance": lambda d, x, t: d.p_mean_variance(lambda x, t: x, x, t),
    "training_losses": lambda d, x, t: d.training_losses(lambda x, t: Tensor(x), x, t, x),
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


@every_call
@pytest.mark.parametrize("t", [[0, 1, T], [0, -1, 1], [0, 1, 2**40]])
def test_t_outside_the_process_is_refused(call, t):
    with refused("t reaches from", f"choose 0 .. {T - 1}"):
        call(GaussianDiffusion(BETAS), images(0), np.array(t))


@every_call
@pytest.mark.parametrize(
    "t", [[0.0, 1.0, 2.0], [True, False, True], [0, 1], [0, 1, 2, 3], [[0], [1], [2]], []]
)
def test_t_that_is_not_one_integer_per_image_is_refused(call, t):
    with refused("give 3 integers, one for each image"):
        call(GaussianDiffusion(BETAS), images(0), np.array(t))


@pytest.mark.parametrize("call", ["q_step", "q_sample"])
@pytest.mark.parametrize("shape", [(3, 4, 5, 1), (1, 4, 5, 2), (4, 5, 2), (3, 5, 4, 2)])
def test_noise_of_another_shape_is_refused(call, shape):
    """Also if NumPy could broadcast it: one noise for all images would be a mistake."""
    d, t = GaussianDiffusion(BETAS), np.array([0, 1, 2])
    with refused("noise of shape", "make it equal"):
        getattr(d, call)(images(0), t, np.zeros(shape))
    with refused("noise of shape", "make it equal"):
        d.training_losses(lambda x, t: Tensor(x), images(0), t, np.zeros(shape))
    with refused("noise of shape", "make it equal"):
        d.training_losses(lambda x, t: Tensor(x), images(0), t, np.zeros(shape), x_t=images(0))


def test_unknown_names_are_refused():
    with refused("prediction 'noise'", *PREDICTIONS):
        GaussianDiffusion(BETAS, "noise")
    with refused("variance 'learned'", *VARIANCES):
        GaussianDiffusion(BETAS, variance="learned")
    with refused("loss 'l1'", "simple"):
        x = images(0)
        d = GaussianDiffusion(BETAS)
        d.training_losses(lambda x, t: Tensor(x), x, np.array([0, 1, 2]), x, loss="l1")


@pytest.mark.parametrize("betas", [[0.0, 0.1], [0.1, 1.0], [-0.1, 0.1], [0.1, float("nan")]])
def test_betas_outside_the_open_interval_are_refused(betas):
    with refused("between 0 and 1"):
        GaussianDiffusion(betas)


@pytest.mark.parametrize("betas", [[], [[0.1]], 0.1])
def test_betas_of_another_shape_are_refused(betas):
    with refused("one number for each"):
        GaussianDiffusion(betas)


@pytest.mark.parametrize("subset", [[3, 1], [1, 1], [0, 2, 2]])
def test_timesteps_that_do_not_increase_are_refused(subset):
    with refused("must rise"):
        GaussianDiffusion(BETAS).respaced(np.array(subset))


@pytest.mark.parametrize("subset", [[0, T], [-1, 3]])
def test_timesteps_outside_the_process_are_refused(subset):
    with refused(f"choose 0 .. {T - 1}"):
        GaussianDiffusion(BETAS).respaced(np.array(subset))


@pytest.mark.parametrize("subset", [[0.5, 1.7], [0.0, 3.0]])
def test_fractions_as_timesteps_are_refused(subset):
    """Rounding 1.7 down to 1 would silently use another timestep than the caller's."""
    with refused("integers"):
        GaussianDiffusion(BETAS).respaced(np.array(subset))


def test_an_empty_subset_of_timesteps_is_refused():
    with refused():
        GaussianDiffusion(BETAS).respaced(np.array([], int))


def test_a_model_with_another_number_of_channels_is_refused():
    """NumPy would broadcast [N, H, W, 1] against [N, H, W, 3] silently."""
    d = GaussianDiffusion(linear(50))
    x, t = np.zeros((2, 4, 4, 3), np.float32), np.array([1, 2])
    for call in (
        lambda: d.p_mean_variance(lambda x, t: x[..., :1], x, t),
        lambda: d.training_losses(lambda x, t: x[..., :1], x, t, x),
    ):
        with pytest.raises(InputError, match="output channels"):
            call()
    with pytest.raises(InputError, match="timestep_map has 3"):
        GaussianDiffusion(linear(50), timestep_map=np.arange(3))
