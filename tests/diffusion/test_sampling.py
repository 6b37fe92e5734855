"""What all samplers do: the steps they yield, seeds and bad input."""

from functools import partial

import numpy as np
import pytest
from sampler_models import BOTH, SHAPE, check_close, last, noises, process, rough_model

from minddpm import Tensor, random, samplers
from minddpm.diffusion.sampling.steps import SPACINGS
from minddpm.diffusion.schedules import cosine
from minddpm.generate import ADAPTIVE, SAMPLERS
from refusals import refused

# --- what is yielded -----------------------------------------------------------------------------


@BOTH
def test_samplers_yield_one_step_per_t_in_descending_order(sampler):
    steps = list(sampler(process(), rough_model, SHAPE))
    assert [step.t for step in steps] == list(range(12))[::-1]
    assert all(step.x.shape == step.pred_x0.shape == SHAPE for step in steps)


@BOTH
@pytest.mark.parametrize(
    ("spacing", "expected"),
    [("leading", [8, 4, 0]), ("linspace", [11, 6, 0]), ("trailing", [11, 7, 3])],
)
def test_fewer_steps_visit_timesteps_of_the_long_process(sampler, spacing, expected):
    model_t = []

    def model(x, t):
        model_t.append(t.tolist())
        return x

    yielded = list(sampler(process(), model, SHAPE, 3, spacing=spacing))
    assert [step.t for step in yielded] == expected
    assert model_t == [[t, t] for t in expected]  # one t for each of the two images


@BOTH
@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing", "log_snr"])
def test_steps_of_none_means_all_steps(sampler, spacing):
    runs = [
        list(sampler(process(), rough_model, SHAPE, steps, seed=5, spacing=spacing))
        for steps in (None, 12)
    ]
    for a, b in zip(*runs, strict=True):
        assert a.t == b.t
        check_close(a.x, b.x, 1e-4)


@BOTH
def test_pred_x0_is_clipped_if_the_process_clips(sampler):
    x_T = noises(1)[0]
    for clip in (True, False):
        steps = sampler(process(clip=clip), rough_model, SHAPE, x_T=x_T)
        largest = max(np.abs(step.pred_x0).max() for step in steps)
        assert (largest <= 1) == clip


@BOTH
@pytest.mark.parametrize("T", [1, 12])
def test_the_last_step_is_the_predicted_image(sampler, T):
    """At t = 0: coef1 = 1, coef2 = 0 and no noise, so x is pred_x0."""
    *_, step = sampler(process(clip=True, betas=cosine(T)), rough_model, SHAPE)
    assert step.t == 0
    np.testing.assert_allclose(step.x, step.pred_x0, atol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [(samplers.ddpm, {}), (samplers.ddim, {"eta": 0.5}), (samplers.ddim, {"eta": 1.0})],
)
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("steps", [12, 5, 1])
def test_noise_is_drawn_once_per_step_except_the_last(sampler, options, variance, steps):
    drawn = []

    def noise(i):
        drawn.append(i)
        return np.zeros(SHAPE, np.float32)

    list(sampler(process(variance=variance), rough_model, SHAPE, steps, noise=noise, **options))
    assert drawn == list(range(steps - 1))


@BOTH
def test_the_model_may_return_a_tensor(sampler):
    array = last(sampler(process(), rough_model, SHAPE, seed=7))
    tensor = last(sampler(process(), lambda x, t: Tensor(rough_model(x, t)), SHAPE, seed=7))
    np.testing.assert_array_equal(array, tensor)


@BOTH
def test_x_t_is_not_modified(sampler):
    x_T = noises(1)[0]
    before = x_T.copy()
    list(sampler(process(), rough_model, SHAPE, x_T=x_T))
    np.testing.assert_array_equal(x_T, before)


@BOTH
def test_steps_already_yielded_are_not_modified(sampler):
    """A caller may store all steps, for a GIF: the sampler must not write into them."""
    copies, yielded = [], []
    for step in sampler(process(), rough_model, SHAPE):
        yielded.append(step)
        copies.append((step.x.copy(), step.pred_x0.copy()))
    for step, (x, pred_x0) in zip(yielded, copies, strict=True):
        np.testing.assert_array_equal(step.x, x)
        np.testing.assert_array_equal(step.pred_x0, pred_x0)


@pytest.mark.parametrize("spacing", [*SPACINGS, "log_snr", "1", "ddim1"])
def test_a_single_step_starts_at_pure_noise_everywhere(spacing):
    """Every sampler, both of the commands that edit images, and inversion."""
    d, x0 = process(), noises(1)[0]
    steps = 1 if spacing in (*SPACINGS, "log_snr") else None
    calls = [
        partial(sampler, d, rough_model, SHAPE, steps, spacing=spacing)
        for name, sampler in SAMPLERS.items()
        if name not in ADAPTIVE
    ]
    calls.append(
        partial(samplers.inpaint, d, rough_model, x0, np.ones(SHAPE), steps, spacing=spacing)
    )
    calls += [
        partial(samplers.invert, d, rough_model, x0, steps, spacing=spacing, t_ahead=flag)
        for flag in (False, True)
    ]
    for call in calls:
        assert [step.t for step in call()] == [11], call


# --- seeds ---------------------------------------------------------------------------------------


@BOTH
def test_the_seed_determines_the_sample(any_backend, sampler):
    samples = [last(sampler(process(), rough_model, SHAPE, seed=seed)) for seed in (7, 7, 8)]
    np.testing.assert_array_equal(samples[0], samples[1])
    assert np.abs(samples[0] - samples[2]).max() > 0.1


@pytest.mark.parametrize("first", [0, 128, 5])
@pytest.mark.parametrize(
    ("sampler", "options"), [(samplers.ddpm, {}), (samplers.ddim, {"eta": 0.5})]
)
def test_a_seed_selects_two_streams_of_noise(any_backend, sampler, options, first):
    """The caller may draw x_T and the noise of step i and pass them in: the result is the same."""
    seeded = sampler(process(), rough_model, SHAPE, seed=7, first=first, **options)
    passed = sampler(
        process(),
        rough_model,
        SHAPE,
        x_T=random.normal(SHAPE, 7, random.X_T, first=first),
        noise=lambda i: random.normal(SHAPE, 7, random.SAMPLE, i, first),
        **options,
    )
    np.testing.assert_array_equal(last(seeded), last(passed))


# --- bad input -----------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("steps", [0, -1, 13])
def test_steps_out_of_range_are_refused(sampler, steps):
    with refused(f"{steps} sampling steps", "choose 1 .. 12"):
        list(sampler(process(), rough_model, SHAPE, steps))


@BOTH
def test_an_unknown_spacing_is_refused(sampler):
    with refused("'even'", "leading"):
        list(sampler(process(), rough_model, SHAPE, 3, spacing="even"))


@BOTH
@pytest.mark.parametrize("shape", [(2, 8, 8, 3), (1, 8, 8, 1), (8, 8, 1)])
def test_an_x_t_of_another_shape_is_refused(sampler, shape):
    with refused("x_T has shape", "make them equal"):
        list(sampler(process(), rough_model, SHAPE, x_T=np.zeros(shape, np.float32)))


@pytest.mark.parametrize("eta", [-0.1, 1.5, float("nan")])
def test_an_eta_out_of_range_is_refused(eta):
    with refused(f"eta = {eta}", "choose 0"):
        list(samplers.ddim(process(), rough_model, SHAPE, eta=eta))


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, True])
def test_a_bad_seed_is_refused(seed):
    with refused("the seed", "choose 0 .."):
        list(samplers.ddpm(process(), rough_model, SHAPE, seed=seed))
