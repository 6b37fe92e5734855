"""scheduler_config.json: a diffusion process as diffusers' schedulers describe it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minddpm.diffusion import schedules
from minddpm.diffusion.losses import GaussianDiffusion
from minddpm.errors import InputError, naming
from minddpm.storage.json_files import diffusers_header, read_json

PREDICTION_TYPES = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


def scheduler_config(diffusion: GaussianDiffusion) -> dict[str, Any]:
    """The configuration with which diffusers' schedulers are this diffusion process.

    Raises InputError for a shortened one, whose timesteps the file could not tell.
    """
    T, betas = diffusion.T, diffusion.betas
    if not np.array_equal(diffusion.timestep_map, np.arange(T)):
        raise InputError(
            "a file cannot tell the timesteps of a respaced process: save the one it was made from."
        )
    config: dict[str, Any] = {
        **diffusers_header("DDPMScheduler"),
        "num_train_timesteps": T,
        "beta_start": 0.1 / T,
        "beta_end": 20 / T,
        "beta_schedule": "linear",
        "trained_betas": None,
        "variance_type": diffusion.variance,
        "clip_sample": diffusion.clip_x0,
        "clip_sample_range": 1.0,
        "prediction_type": PREDICTION_TYPES[diffusion.prediction],
        "timestep_spacing": "leading",
        "steps_offset": 0,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
    }
    if not np.allclose(betas, np.linspace(0.1 / T, 20 / T, T), rtol=1e-12, atol=0):
        config["trained_betas"] = betas.tolist()
    return config


def load_diffusion(directory: str | Path) -> GaussianDiffusion:
    """The diffusion process of a run or pipeline directory.

    Raises InputError if scheduler/scheduler_config.json is missing or asks for something else.
    """
    path = Path(directory) / "scheduler" / "scheduler_config.json"
    flat = Path(directory) / "scheduler_config.json"  # as in google/ddpm-cifar10-32
    if not path.is_file() and flat.is_file():
        path = flat
    config = read_json(path)
    with naming(path):
        return _diffusion(config)


# What minddpm runs of a scheduler's settings, and what it calls that; the first is the default.
SCHEDULER_CHOICES: dict[str, dict[Any, Any]] = {
    # These samplers share one forward process, which is all that is read here.
    "_class_name": {"DDPMScheduler": None, "DDIMScheduler": None, "PNDMScheduler": None},
    "prediction_type": {theirs: ours for ours, theirs in PREDICTION_TYPES.items()},
    "variance_type": {
        "fixed_small": "fixed_small",
        "fixed_small_log": "fixed_small",  # the same variance, by way of its logarithm
        "fixed_large": "fixed_large",
        "fixed_large_log": "fixed_large",
        "learned_range": "learned_range",
    },
    "beta_schedule": {
        "linear": schedules.linear,
        "scaled_linear": schedules.quadratic,
        "squaredcos_cap_v2": schedules.cosine,
    },
    "clip_sample": {True: True, False: False},
    "thresholding": {False: False},
    "rescale_betas_zero_snr": {False: False},
    "clip_sample_range": {1.0: 1.0},
}


def _diffusion(config: dict[str, Any]) -> GaussianDiffusion:
    chosen = {}
    for key, choices in SCHEDULER_CHOICES.items():
        value = config.get(key, next(iter(choices)))
        if not any(value == choice for choice in choices):
            raise InputError(
                f"{key}={value!r} is not supported: choose {' or '.join(repr(c) for c in choices)}."
            )
        chosen[key] = choices[value]
    return GaussianDiffusion(
        _betas(config, chosen["beta_schedule"]),
        chosen["prediction_type"],
        chosen["variance_type"],
        chosen["clip_sample"],
    )


def _betas(config: dict[str, Any], schedule: Callable[..., np.ndarray]) -> np.ndarray:
    trained = config.get("trained_betas")
    T = config.get("num_train_timesteps", 1000)
    ends = [config.get("beta_start", 1e-4), config.get("beta_end", 0.02)]
    numbers = ends if trained is None else trained
    if not isinstance(numbers, list) or not all(type(x) in (int, float) for x in numbers):
        raise InputError("trained_betas, beta_start and beta_end must be numbers: correct them.")
    if trained is not None:
        return schedules.check_betas(np.array(trained, np.float64))
    if type(T) is not int:
        raise InputError(f"num_train_timesteps={T!r} is no integer: correct it.")
    if schedule is schedules.cosine:
        return schedule(T)
    # minddpm's schedules scale their ends by 1000 / T; a file gives the ends as they are.
    schedules.check_betas(np.array(ends))
    return schedule(T, *(end * T / 1000 for end in ends))
