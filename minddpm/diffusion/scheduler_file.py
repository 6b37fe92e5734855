"""scheduler_config.json: a diffusion process as diffusers' schedulers describe it."""

import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from minddpm.diffusion import schedules
from minddpm.diffusion.losses import GaussianDiffusion
from minddpm.diffusion.reverse import Limit, Sampling
from minddpm.diffusion.sampling.diffusers_steps import DiffusersSteps
from minddpm.diffusion.scheduler_keys import complete_config
from minddpm.diffusion.thresholding import ClipRange, DynamicThreshold
from minddpm.errors import InputError, naming
from minddpm.storage.json_files import diffusers_header, read_json

PREDICTION_TYPES = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}
# The number of sampling steps of a distilled model. diffusers keeps and ignores a key with "_".
STEPS = "_sampling_steps"


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
        "clip_sample": bool(diffusion.clip_x0),
        "clip_sample_range": 1.0,
        "prediction_type": PREDICTION_TYPES[diffusion.prediction],
        "timestep_spacing": "leading",
        "steps_offset": 0,
        "thresholding": False,
        "rescale_betas_zero_snr": False,
    }
    if isinstance(diffusion.clip_x0, ClipRange):
        config["clip_sample_range"] = diffusion.clip_x0.limit
    elif isinstance(diffusion.clip_x0, DynamicThreshold):
        ratio, largest = diffusion.clip_x0
        config |= {"thresholding": True, "dynamic_thresholding_ratio": ratio}
        config["sample_max_value"] = largest
    if not np.allclose(betas, np.linspace(0.1 / T, 20 / T, T), rtol=1e-12, atol=0):
        config["trained_betas"] = betas.tolist()
    if diffusion.sampling is not None and diffusion.sampling.steps is not None:
        del config["variance_type"]  # the samplers of few steps have none
        sampler, _, steps = diffusion.sampling
        config |= {"set_alpha_to_one": True, STEPS: steps}
        if sampler == "consistency":
            config |= diffusers_header("LCMScheduler") | _lcm(steps)
        else:
            config |= diffusers_header("DDIMScheduler") | {"timestep_spacing": "trailing"}
    return config


def _lcm(steps: int) -> dict[str, Any]:
    """Return with what diffusers' LCMScheduler takes the timesteps of spacing "upper".

    It mixes a share of x_t into pred_x0 at small t, so that t = 0 changes nothing; the share is
    1 / (2 t timestep_scaling)^2, and vanishes with this scaling.
    """
    return {"original_inference_steps": steps + 1, "timestep_scaling": 1e6}


def few_steps(steps: int) -> Sampling:
    """Return the sampling of a distilled model: DDIM's steps of equal length down from T-1."""
    return Sampling("ddim", {"spacing": DiffusersSteps("DDIM", "trailing")}, steps)


def load_diffusion(directory: str | Path) -> GaussianDiffusion:
    """The diffusion process of a run or pipeline directory.

    Its `sampling` is the sampler that diffusers would use, unless minddpm wrote the file.
    Raises InputError if scheduler/scheduler_config.json is missing or asks for something else.
    """
    path = Path(directory) / "scheduler" / "scheduler_config.json"
    flat = Path(directory) / "scheduler_config.json"  # as in google/ddpm-cifar10-32
    if not path.is_file() and flat.is_file():
        path = flat
    config = read_json(path)
    with naming(path):
        return _diffusion(config)


def _diffusion(config: dict[str, Any]) -> GaussianDiffusion:
    given, config = config, complete_config(config)
    kind, prediction = config["_class_name"], config["prediction_type"]
    variance = (config.get("variance_type") or "fixed_small").removesuffix("_log")
    betas = _betas(config)
    if config.get("rescale_betas_zero_snr"):
        # Those of DPM-Solver and Euler keep a little of the image, so noise can be predicted.
        left = None if kind in ("DDPMScheduler", "DDIMScheduler") else 2.0**-24
        if left is None and prediction == "epsilon":
            raise InputError(
                "rescale_betas_zero_snr=True with prediction_type='epsilon' is not supported, "
                "since no noise can be told from an image of noise alone: choose "
                "v_prediction or sample."
            )
        betas = schedules.zero_terminal_snr(betas, left)
    ours = {theirs: ours for ours, theirs in PREDICTION_TYPES.items()}[prediction]
    diffusion = GaussianDiffusion(betas, ours, variance, _limit(config))
    if not _is_ours(given):
        diffusion.sampling = _sampling(config, variance)
    return diffusion


def _is_ours(config: dict[str, Any]) -> bool:
    """Return whether scheduler_config wrote this; diffusers writes every key."""
    header = diffusers_header("DDPMScheduler")
    return header.items() <= config.items() and "sample_max_value" not in config


def _limit(config: dict[str, Any]) -> bool | Limit:
    if config.get("thresholding"):
        ratio = _number(config, "dynamic_thresholding_ratio", 0.995, 0, 1)
        return DynamicThreshold(ratio, _number(config, "sample_max_value", 1.0, 1e-6, 1e6))
    limit = _number(config, "clip_sample_range", 1.0, 1e-6, 1e6)
    return config.get("clip_sample", False) and (True if limit == 1 else ClipRange(limit))


def _sampling(config: dict[str, Any], variance: str) -> Sampling:
    """Return the sampler that a scheduler is, with its options."""
    kind, spacing = config["_class_name"], config.get("timestep_spacing", "linspace")
    offset = config.get("steps_offset", 0)
    if type(offset) is not int or not 0 <= offset < schedules.MAX_T:
        raise InputError(f"steps_offset={reprlib.repr(offset)} is no integer of at least 0.")
    last_ac = "one" if config.get("set_alpha_to_one") else "first"
    if kind == "PNDMScheduler":
        steps = DiffusersSteps("DDIM", spacing, offset, last_ac)
        return Sampling("pndm", {"runge_kutta": not config["skip_prk_steps"], "spacing": steps})
    if kind == "DDPMScheduler":
        if (spacing == "trailing" or offset) and variance != "fixed_small":
            key = "timestep_spacing='trailing'" if spacing == "trailing" else "steps_offset above 0"
            raise InputError(
                f"{key} with variance {variance} is not supported, since diffusers adds noise to "
                "the final image: choose timestep_spacing leading, steps_offset 0 or fixed_small."
            )
        return Sampling("ddpm", {"spacing": DiffusersSteps("DDPM", spacing, offset)})
    own = config.get(STEPS)
    if own is not None and (type(own) is not int or not 1 <= own <= schedules.MAX_T):
        raise InputError(f"{STEPS}={reprlib.repr(own)} is no integer of at least 1.")
    if kind == "LCMScheduler":
        if own is None or not _lcm(own).items() <= config.items():
            raise InputError(
                "an LCMScheduler is supported only as minddpm writes it for a consistency model: "
                "convert the model to another scheduler."
            )
        return Sampling("consistency", {}, own)
    if kind == "DDIMScheduler":
        steps = {"spacing": DiffusersSteps("DDIM", spacing, offset, last_ac)}
        return Sampling("ddim", steps, own)
    if kind.startswith("Euler"):
        # In x / alpha Euler's step is DDIM's, and the ancestral one that of eta = 1.
        eta = 1.0 if "Ancestral" in kind else 0.0
        return Sampling("ddim", {"eta": eta, "spacing": DiffusersSteps("Euler", spacing, offset)})
    steps = {"spacing": DiffusersSteps("DPMSolver", spacing, offset)}
    if config["solver_order"] == 1:
        if config["algorithm_type"] != "dpmsolver++":
            raise InputError("solver_order=1 with sde-dpmsolver++ is not supported: choose 2.")
        return Sampling("dpm_solver", {"order": "1", **steps})
    if "Singlestep" in kind:
        return Sampling("dpm_solver_2s", steps)
    sde = config["algorithm_type"] == "sde-dpmsolver++"
    return Sampling("dpm_solver_sde" if sde else "dpm_solver", steps)


def _number(config: dict[str, Any], key: str, default: float, low: float, high: float) -> float:
    value = config.get(key, default)
    if type(value) not in (int, float) or not low <= value <= high:
        raise InputError(f"{key}={reprlib.repr(value)} is no number in {low:g} .. {high:g}.")
    return float(value)


BETAS = {
    "linear": schedules.linear,
    "scaled_linear": schedules.quadratic,
    "squaredcos_cap_v2": schedules.cosine,
}


def _betas(config: dict[str, Any]) -> np.ndarray:
    trained, schedule = config.get("trained_betas"), BETAS[config["beta_schedule"]]
    T = config.get("num_train_timesteps", 1000)
    ends = [config.get("beta_start", 1e-4), config.get("beta_end", 0.02)]
    numbers = ends if trained is None else trained
    if not isinstance(numbers, list) or not all(type(x) in (int, float) for x in numbers):
        raise InputError("trained_betas, beta_start and beta_end must be numbers: correct them.")
    if trained is not None:
        return schedules.check_betas(np.array(trained, np.float64))
    if type(T) is not int or T > schedules.MAX_T:
        raise InputError(
            f"num_train_timesteps={reprlib.repr(T)} is no integer of at most {schedules.MAX_T:,}: "
            "correct it."
        )
    if schedule is schedules.cosine:
        return schedule(T)
    # minddpm's schedules scale their ends by 1000 / T; a file gives the ends as they are.
    schedules.check_betas(np.array(ends))
    return schedule(T, *(end * T / 1000 for end in ends))
