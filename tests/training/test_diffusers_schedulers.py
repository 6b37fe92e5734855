"""What a scheduler's configuration says about sampling: honoured, or refused by the key's name."""

import json

import numpy as np
import pytest
from builders import TINIEST, random_unet
from saved_files import SCHEDULER, check_same_process, refused_and_untouched

import minddpm
from minddpm import GaussianDiffusion
from minddpm.diffusion.reverse import Sampling
from minddpm.diffusion.sampling.diffusers_steps import DiffusersSteps
from minddpm.diffusion.scheduler_file import load_diffusion, scheduler_config
from minddpm.diffusion.schedules import linear, zero_terminal_snr
from minddpm.diffusion.thresholding import ClipRange, DynamicThreshold
from minddpm.pipeline import Pipeline, save_pipeline
from refusals import refused


def write(directory, kind="DDIMScheduler", **config):
    path = directory / SCHEDULER
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"_class_name": kind, **config}))
    return path


@pytest.mark.parametrize(
    ("kind", "config", "sampler", "options"),
    [
        ("DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1}, "ddim",
         {"spacing": DiffusersSteps("DDIM", "leading", 1, "first")}),
        ("DPMSolverMultistepScheduler", {}, "dpm_solver",
         {"spacing": DiffusersSteps("DPMSolver", "linspace")}),
        ("DPMSolverMultistepScheduler", {"lambda_min_clipped": float("-inf"), "solver_order": 1},
         "dpm_solver", {"order": "1", "spacing": DiffusersSteps("DPMSolver", "linspace")}),
        ("DPMSolverSinglestepScheduler", {}, "dpm_solver_2s",
         {"spacing": DiffusersSteps("DPMSolver", "linspace")}),
        ("EulerAncestralDiscreteScheduler", {"timestep_spacing": "trailing"}, "ddim",
         {"eta": 1.0, "spacing": DiffusersSteps("Euler", "trailing")}),
        ("DDPMScheduler", {"timestep_spacing": "trailing"}, "ddpm",
         {"spacing": DiffusersSteps("DDPM", "trailing")}),
        ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}, "pndm",
         {"runge_kutta": False, "spacing": DiffusersSteps("DDIM", "leading", 1, "first")}),
        ("PNDMScheduler", {"set_alpha_to_one": True}, "pndm",
         {"runge_kutta": True, "spacing": DiffusersSteps("DDIM", "leading")}),
    ],
)  # fmt: skip
def test_a_schedulers_own_sampler_is_read(tmp_path, kind, config, sampler, options):
    write(tmp_path, kind, **config)
    assert load_diffusion(tmp_path).sampling == Sampling(sampler, options)


def test_generate_samples_as_the_scheduler_does_unless_told_otherwise(tmp_path):
    write(tmp_path, timestep_spacing="trailing", set_alpha_to_one=False)
    d, unet = load_diffusion(tmp_path), random_unet(TINIEST, scale=0.3)
    seen = []

    def ts(*arguments, **options):
        seen.clear()
        minddpm.generate(
            Pipeline(unet, d), 1, *arguments, watch=lambda _, s: seen.append(s.t), **options
        )
        return list(seen)

    assert ts(steps=4) == ts("ddim", 4) == [999, 749, 499, 249]
    assert ts(steps=4, spacing="leading") == [750, 500, 250, 0]
    assert ts("ddpm", 4) == [999, 666, 333, 0]  # the default of another sampler
    assert ts(steps=1) == [999]


def test_a_directory_of_ours_leaves_the_choice_to_the_caller(tmp_path):
    save_pipeline(random_unet(TINIEST), GaussianDiffusion(linear(50)), tmp_path)
    assert minddpm.load(tmp_path).diffusion.sampling is None


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("DDIMScheduler", {"timestep_spacing": "karras"}),
        ("DDIMScheduler", {"steps_offset": -1}),
        ("DDIMScheduler", {"steps_offset": 1.5}),
        ("DDIMScheduler", {"set_alpha_to_one": 1}),
        ("DDIMScheduler", {"clip_sample_range": 0}),
        ("DDIMScheduler", {"clip_sample_range": [1]}),
        ("DDIMScheduler", {"thresholding": True, "dynamic_thresholding_ratio": 2}),
        ("DDIMScheduler", {"thresholding": True, "sample_max_value": "x"}),
        ("DDIMScheduler", {"rescale_betas_zero_snr": True}),
        ("DDIMScheduler", {"num_train_timesteps": 10**12}),
        ("DDIMScheduler", {"new_sampling_option": 3}),
        ("DDPMScheduler", {"variance_type": "fixed_large", "timestep_spacing": "trailing"}),
        ("DPMSolverMultistepScheduler", {"solver_order": 3}),
        ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++", "solver_order": 1}),
        ("EulerDiscreteScheduler", {"prediction_type": "sample"}),
        ("PNDMScheduler", {"prediction_type": "sample"}),
        ("PNDMScheduler", {"timestep_spacing": "trailing"}),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_key(tmp_path, kind, config):
    path = write(tmp_path, kind, **config)
    with refused_and_untouched(tmp_path, path, list(config)[-1]):
        load_diffusion(tmp_path)


def test_keys_of_other_schedulers_are_ignored_as_by_diffusers(tmp_path):
    write(tmp_path, "EulerDiscreteScheduler", skip_prk_steps=True, clip_sample=True, future=None)
    assert load_diffusion(tmp_path).clip_x0 is False


def test_zero_terminal_snr_follows_the_paper():
    """sqrt(ac) is shifted to end at 0 and scaled to keep its first value (algorithm 1)."""
    before = np.sqrt(np.cumprod(1 - linear(100)))
    after = np.sqrt(np.cumprod(1 - zero_terminal_snr(linear(100))))
    assert after[0] == pytest.approx(before[0])
    assert after[-1] < 1e-8
    shares = (before - before[-1]) / (before[0] - before[-1])
    np.testing.assert_allclose(after, before[0] * shares, atol=1e-8)


def test_a_dynamic_threshold_by_hand():
    x = np.linspace(-3, 3, 7, dtype=np.float32).reshape(1, 1, 7, 1)  # |x|: 0, 1, 1, 2, 2, 3, 3
    np.testing.assert_allclose(DynamicThreshold(0.5, 9.0)(x), x.clip(-2, 2) / 2)
    np.testing.assert_allclose(DynamicThreshold(1.0, 1.5)(x), x.clip(-1.5, 1.5) / 1.5)
    np.testing.assert_allclose(DynamicThreshold(0.0, 9.0)(x), x.clip(-1, 1))


@pytest.mark.parametrize("limit", [ClipRange(2.5), DynamicThreshold(0.9, 1.5)])
def test_a_limit_of_the_predicted_image_comes_back(tmp_path, limit):
    diffusion = GaussianDiffusion(linear(50), clip_x0=limit)
    (tmp_path / "scheduler").mkdir()
    (tmp_path / SCHEDULER).write_text(json.dumps(scheduler_config(diffusion)))
    check_same_process(load_diffusion(tmp_path), diffusion)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm_solver", "probability_flow"])
def test_every_sampler_limits_the_predicted_image(any_backend, sampler):
    """A range of 1 by the general way gives what the fused kernel gives."""
    runs = []
    for clip in (True, ClipRange(1.0), ClipRange(0.5)):
        d = GaussianDiffusion(linear(50), clip_x0=clip)
        steps = list(getattr(minddpm.samplers, sampler)(d, lambda x, t: x * 0.3, (2, 4, 4, 1), 5))
        assert max(float(abs(s.pred_x0).max()) for s in steps) <= (0.5 if clip == (0.5,) else 1)
        runs.append(minddpm.backend.to_numpy(steps[-1].x))
    np.testing.assert_allclose(runs[0], runs[1], atol=1e-5)
    assert np.abs(runs[0] - runs[2]).max() > 0.1


def test_more_steps_than_the_spacing_has_are_refused():
    d = GaussianDiffusion(linear(50))
    for spacing, steps in ((("DPMSolver", "leading", 1), 49), (("DDIM", "leading", 9), 49)):
        with refused(f"{steps} steps", "choose fewer"):
            list(minddpm.samplers.ddim(
                d, lambda x, t: x, (1, 4, 4, 1), steps, spacing=DiffusersSteps(*spacing)
            ))  # fmt: skip
