"""A diffusion process on disk, alone and in a pipeline: what comes back, and what is refused."""

import json

import numpy as np
import pytest
from builders import random_unet, read_files
from saved_files import (
    SCHEDULER,
    WEIGHTS,
    check_same_model,
    check_same_process,
    refused_and_untouched,
)

from minddpm import GaussianDiffusion, UNet2D
from minddpm.diffusion.scheduler_file import load_diffusion, scheduler_config
from minddpm.diffusion.schedules import BY_NAME, cosine, linear, quadratic
from minddpm.errors import InputError
from minddpm.pipeline import save_pipeline
from minddpm.storage.json_files import write_json
from refusals import refused


def save_process(diffusion, directory):
    path = directory / SCHEDULER
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(scheduler_config(diffusion)))


@pytest.mark.parametrize("schedule", BY_NAME.values(), ids=BY_NAME)
@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_a_process_comes_back(tmp_path, schedule, prediction, variance):
    clip = prediction != "v"
    diffusion = GaussianDiffusion(schedule(50), prediction, variance, clip)
    save_process(diffusion, tmp_path)
    check_same_process(load_diffusion(tmp_path), diffusion)


@pytest.mark.parametrize("T", [21, 50, 1000, 4000])
def test_a_linear_schedule_is_written_by_its_ends(tmp_path, T):
    config = scheduler_config(GaussianDiffusion(linear(T)))
    assert config["trained_betas"] is None
    assert config["beta_schedule"] == "linear"
    assert config["num_train_timesteps"] == T
    assert config["beta_start"] == pytest.approx(1e-4 * 1000 / T)
    assert config["beta_end"] == pytest.approx(0.02 * 1000 / T)
    save_process(GaussianDiffusion(linear(T)), tmp_path)
    check_same_process(load_diffusion(tmp_path), GaussianDiffusion(linear(T)))


@pytest.mark.parametrize("betas", [[0.3], [0.1, 0.5, 0.2], linear(50, 1e-4, 0.01)])
def test_any_betas_come_back(tmp_path, betas):
    save_process(GaussianDiffusion(betas), tmp_path)
    check_same_process(load_diffusion(tmp_path), GaussianDiffusion(betas))


def write_scheduler(directory, **config):
    path = directory / SCHEDULER
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"_class_name": "DDPMScheduler", **config}))
    return path


def test_an_empty_config_means_the_defaults_of_ho_et_al(tmp_path):
    write_scheduler(tmp_path)
    check_same_process(load_diffusion(tmp_path), GaussianDiffusion(linear(1000)))


def test_ends_in_a_file_are_meant_as_they_are(tmp_path):
    """Nothing is rescaled here: a diffusers file states each beta."""
    write_scheduler(tmp_path, num_train_timesteps=100, beta_start=1e-4, beta_end=0.02)
    expected = [1e-4 + (0.02 - 1e-4) * t / 99 for t in range(100)]
    np.testing.assert_allclose(load_diffusion(tmp_path).betas, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "betas"),
    [("squaredcos_cap_v2", cosine(100)), ("scaled_linear", quadratic(100))],
)
def test_diffusers_names_of_the_other_schedules(tmp_path, name, betas):
    ends = {"beta_start": 0.001, "beta_end": 0.2}
    write_scheduler(tmp_path, num_train_timesteps=100, beta_schedule=name, **ends)
    np.testing.assert_allclose(load_diffusion(tmp_path).betas, betas, rtol=1e-9)


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
def test_a_variance_written_by_its_logarithm_is_the_same(tmp_path, variance):
    write_scheduler(tmp_path, variance_type=f"{variance}_log")
    assert load_diffusion(tmp_path).variance == variance


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prediction_type", "flow"),
        ("variance_type", "learned"),
        ("variance_type", ["fixed_small"]),
        ("beta_schedule", "sigmoid"),
        ("rescale_betas_zero_snr", True),
        ("predict_epsilon", False),
    ],
)
def test_a_setting_that_we_cannot_run_is_refused(tmp_path, key, value):
    path = write_scheduler(tmp_path, **{key: value})
    with refused_and_untouched(tmp_path, path, f"{key}={value!r}", "choose"):
        load_diffusion(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"trained_betas": [0.1, 1.5]},
        {"trained_betas": []},
        {"trained_betas": ["a"]},
        {"beta_start": -0.1},
        {"beta_end": 1.5},
        {"beta_start": "small"},
        {"beta_start": -0.1, "beta_schedule": "scaled_linear"},
        {"num_train_timesteps": 0},
        {"num_train_timesteps": "many"},
        {"num_train_timesteps": 10.5},
        {"clip_sample": "yes"},
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()),
)
def test_a_setting_that_makes_no_sense_is_refused(tmp_path, config):
    path = write_scheduler(tmp_path, **config)
    with refused_and_untouched(tmp_path, path):
        load_diffusion(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_scheduler_config_that_is_no_json_object_is_refused(tmp_path, text):
    path = write_scheduler(tmp_path)
    path.write_text(text)
    with refused_and_untouched(tmp_path, path, "JSON", "copy it again"):
        load_diffusion(tmp_path)


def test_a_missing_scheduler_is_refused(saved):
    with refused_and_untouched(saved, saved / SCHEDULER, "give a directory that has it"):
        load_diffusion(saved)


def test_a_shortened_process_is_not_written(tmp_path):
    """The file has no place for the timesteps that the model gets, so it would come back wrong."""
    with refused("timestep"):
        scheduler_config(GaussianDiffusion(linear(50)).respaced(np.array([0, 10, 20])))


# --- pipelines -----------------------------------------------------------------------------------


def test_a_pipeline_is_both(tmp_path):
    unet, diffusion = random_unet(), GaussianDiffusion(cosine(20), "v", "fixed_large", False)
    save_pipeline(unet, diffusion, tmp_path)
    check_same_model(unet, UNet2D.from_pretrained(tmp_path))
    check_same_process(load_diffusion(tmp_path), diffusion)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == "DDPMPipeline"
    assert {key: value[1] for key, value in index.items() if key[0] != "_"} == {
        "scheduler": "DDPMScheduler",
        "unet": "UNet2DModel",
    }
    names = {str(path) for path in read_files(tmp_path)}
    assert names == {"model_index.json", SCHEDULER, "unet/config.json", f"unet/{WEIGHTS}"}


def test_a_pipeline_with_everything_in_one_folder_opens(saved):
    """The layout of google/ddpm-cifar10-32: both configurations beside the weights."""
    d = GaussianDiffusion(linear(60), variance="fixed_large")
    write_json(saved / "scheduler_config.json", scheduler_config(d))
    np.testing.assert_allclose(load_diffusion(saved).betas, d.betas, rtol=1e-12)
    UNet2D.from_pretrained(saved)


def test_another_kind_of_process_is_refused(saved):
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000}
    write_json(saved / "scheduler_config.json", config)
    with pytest.raises(InputError, match="FlowMatch"):
        load_diffusion(saved)
