"""generate(): samples that do not depend on the batch size, and a callback for every step."""

import numpy as np
import pytest
from builders import random_unet

from minddpm import GaussianDiffusion, backend, samplers
from minddpm.diffusion.sampling.steps import log_snr_timesteps, timesteps
from minddpm.diffusion.schedules import cosine
from minddpm.generate import ADAPTIVE, SAMPLERS, generate, image_size, seconds_per_run, spacing
from refusals import refused

D = GaussianDiffusion(cosine(6))
# Except adaptive ones, which choose the number of steps for an entire batch.
every_sampler = pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s not in ADAPTIVE])


def tiny_unet(**changes):
    """Return a UNet with random weights."""
    return random_unet(scale=0.3, **changes)


# --- samples -------------------------------------------------------------------------------------


@every_sampler
def test_samples_do_not_depend_on_the_batch_size(any_backend, sampler):
    unet = tiny_unet()
    batch = generate((unet, D), 5, sampler, batch_size=5)
    for batch_size in (1, 2, 64):
        parts = generate((unet, D), 5, sampler, batch_size=batch_size)
        np.testing.assert_allclose(parts, batch, atol=1e-4)


@every_sampler
def test_fewer_samples_are_the_first_of_more(sampler):
    unet = tiny_unet()
    five, two = generate((unet, D), 5, sampler), generate((unet, D), 2, sampler)
    np.testing.assert_allclose(two, five[:2], atol=1e-4)


def test_all_samples_differ():
    samples = generate((tiny_unet(), D), 4, batch_size=2)
    for i in range(4):
        for j in range(i):
            assert np.abs(samples[i] - samples[j]).max() > 0.1


@pytest.mark.parametrize("size", [8, (8, 16), [16, 8]])
def test_samples_are_float32_on_the_host_of_the_models_size(any_backend, size):
    unet = tiny_unet(sample_size=size, in_channels=3, out_channels=3)
    H, W = (8, 8) if size == 8 else size
    samples = generate((unet, D), 3, steps=2, batch_size=2)
    assert isinstance(samples, np.ndarray)
    assert samples.dtype == np.float32
    assert samples.shape == (3, H, W, 3)
    assert image_size(unet) == (H, W)


@every_sampler
def test_the_seed_determines_the_samples(sampler):
    unet = tiny_unet()
    first, again, other = (generate((unet, D), 2, sampler, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.1


def test_the_samplers_name_chooses_the_sampler():
    """DDPM adds noise in each step and DDIM does not: the same x_T gives other samples."""
    unet = tiny_unet()
    ddpm, ddim = generate((unet, D), 2, "ddpm"), generate((unet, D), 2, "ddim")
    assert np.abs(ddpm - ddim).max() > 0.1


def test_a_single_batch_equals_the_result_of_the_sampler():
    unet = tiny_unet()
    *_, step = samplers.ddpm(D, unet, (3, 8, 8, 1), seed=7)
    np.testing.assert_array_equal(generate((unet, D), 3, "ddpm", seed=7), step.x)


def test_the_samples_depend_on_the_weights():
    unet, other = tiny_unet(), tiny_unet()
    other.conv_out.bias.data = other.conv_out.bias.data + 0.5
    assert np.abs(generate((unet, D), 1) - generate((other, D), 1)).max() > 0.1


def test_no_gradients_are_computed():
    unet = tiny_unet()
    generate((unet, D), 1, steps=1)
    assert all(p.grad is None for p in unet.parameters())


# --- watching ------------------------------------------------------------------------------------


@every_sampler
@pytest.mark.parametrize(("steps", "ts"), [(None, [5, 4, 3, 2, 1, 0]), (3, [5, 2, 0]), (1, [5])])
def test_watch_sees_every_step_of_every_batch(sampler, steps, ts):
    calls = []
    if spacing(sampler) == "log_snr" and steps:
        ts = log_snr_timesteps(D.alphas_cumprod, steps)[::-1].tolist()
    elif steps:
        ts = timesteps(D.T, steps, spacing(sampler))[::-1].tolist()
    generate(
        (tiny_unet(), D),
        5,
        sampler,
        steps,
        batch_size=2,
        watch=lambda *args: calls.append(args),
    )
    assert [(start, step.t) for start, step in calls] == [(n, t) for n in (0, 2, 4) for t in ts]
    assert [len(step.x) for _, step in calls] == [n for n in (2, 2, 1) for _ in ts]


def test_the_last_step_watched_is_the_result():
    calls = {}
    samples = generate((tiny_unet(), D), 5, batch_size=2, watch=calls.__setitem__)
    for start, step in calls.items():
        x = backend.to_numpy(step.x)
        np.testing.assert_array_equal(x, samples[start : start + len(x)])


def test_watching_changes_nothing():
    unet = tiny_unet()
    watched = generate((unet, D), 2, watch=lambda start, step: None)
    np.testing.assert_array_equal(watched, generate((unet, D), 2))


def test_the_progress_bar_counts_every_step(capsys):
    generate((tiny_unet(), D), 5, "ddim", 3, batch_size=2)
    assert "9/9" in capsys.readouterr().err  # three batches of three steps


def test_the_time_of_a_step_is_measured():
    assert 0 < seconds_per_run(tiny_unet(), 2) < 60


# --- bad input -----------------------------------------------------------------------------------


def test_an_unknown_sampler_is_refused():
    with refused("sampler 'euler'", *SAMPLERS):
        generate((tiny_unet(), D), 1, "euler")


@pytest.mark.parametrize(("count", "batch_size"), [(0, 1), (-1, 1), (1, 0), (1, -2)])
def test_no_samples_or_empty_batches_are_refused(count, batch_size):
    with refused("at least 1"):
        generate((tiny_unet(), D), count, batch_size=batch_size)


@every_sampler
@pytest.mark.parametrize("steps", [0, -1, 7])
def test_steps_out_of_range_are_refused(sampler, steps):
    with refused(f"{steps} sampling steps", "1 .. 6"):
        generate((tiny_unet(), D), 1, sampler, steps)


def test_spacing_and_eta_reach_the_sampler():
    unet, options = tiny_unet(), {"eta": 0.5, "spacing": "trailing", "seed": 7}
    *_, step = samplers.ddim(D, unet, (3, 8, 8, 1), 3, **options)
    np.testing.assert_array_equal(generate((unet, D), 3, "ddim", 3, **options), step.x)
    *_, step = samplers.ddpm(D, unet, (3, 8, 8, 1), spacing="2,1")
    np.testing.assert_array_equal(generate((unet, D), 3, spacing="2,1"), step.x)


@pytest.mark.parametrize(
    ("sampler", "options", "words"),
    [
        ("ddpm", {"eta": 0.5}, ["ddpm has no eta", "ddim"]),
        ("ddim", {"eta": 2.0}, ["eta = 2.0", "choose 0"]),
        ("ddim", {"spacing": "even"}, ["'even'", "leading"]),
        ("ddim", {"spacing": "ddim3", "steps": 3}, ["states the number of steps"]),
        ("probability_flow_adaptive", {"spacing": "leading"}, ["leave out spacing"]),
    ],
)
def test_options_that_contradict_the_sampler_are_refused(sampler, options, words):
    with refused(*words):
        generate((tiny_unet(), D), 1, sampler, **{"steps": None, **options})


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5])
def test_a_bad_seed_is_refused(seed):
    with refused("the seed", "choose 0 .."):
        generate((tiny_unet(), D), 1, seed=seed)


def test_a_model_of_unknown_size_is_refused():
    with refused("sample_size", "add it"):
        generate((tiny_unet(sample_size=None), D), 1)
