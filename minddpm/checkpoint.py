"""Reading and writing models in diffusers' layout, and the tensors of a training run.

    directory/                      a run directory is a diffusers pipeline:
      model_index.json              DDPMPipeline.from_pretrained(directory) opens it
      unet/config.json, unet/diffusion_pytorch_model.safetensors
      scheduler/scheduler_config.json

Inside the project weights are channels-last; here, at the border, they become PyTorch's OIHW and
back. No pickle is read or written anywhere: a pickle can run any code when it is opened.
"""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minddpm import backend
from minddpm.diffusion import GaussianDiffusion, schedules
from minddpm.errors import InputError
from minddpm.files import atomic_write
from minddpm.models.unet import UNet2D
from minddpm.nn import Module

WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = ("diffusion_pytorch_model.bin", "pytorch_model.bin")
DIFFUSERS_VERSION = "0.30.0"  # the oldest release that the parity tests' file formats are those of

# Ho et al.'s published models carry the attention's names from before diffusers 0.15.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(attentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)$")

PREDICTION_TYPES = {"epsilon": "epsilon", "x0": "sample", "v": "v_prediction"}


# --- the UNet ------------------------------------------------------------------------------------


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say which file an InputError in the block is about."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def save_unet(unet: UNet2D, directory: str | Path) -> None:
    """Write unet's config.json and weights into `directory` as UNet2DModel.save_pretrained does."""
    directory = Path(directory)
    write_tensors(directory / WEIGHTS, torch_tensors(unet), {"format": "pt"})
    config = {"_class_name": "UNet2DModel", "_diffusers_version": DIFFUSERS_VERSION, **unet.config}
    write_json(directory / "config.json", config)


def load_unet(directory: str | Path) -> UNet2D:
    """The UNet in a run directory, a pipeline directory or a model directory.

    Of a run these are the averaged (EMA) weights; the raw ones are in training_state.safetensors.

    Raises InputError, naming the file and the remedy, for a missing or truncated file, a pickle,
    an unsupported configuration, and weights of another architecture.
    """
    folder = _unet_folder(Path(directory))
    path = folder / "config.json"
    config = read_json(path)
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise InputError(f"{path} describes a {kind}: minddpm runs diffusers' UNet2DModel only.")
    with _named(path):
        unet = UNet2D(**{key: value for key, value in config.items() if not key.startswith("_")})
    tensors, _ = read_tensors(_weights_file(folder))
    load_torch_tensors(unet, tensors, folder / WEIGHTS)
    return unet.eval()


def torch_tensors(module: Module) -> dict[str, np.ndarray]:
    """Every parameter on the host in PyTorch's layout, by name."""
    return {
        name: np.transpose(backend.to_numpy(p.data), p.torch_axes)
        if p.torch_axes
        else backend.to_numpy(p.data)
        for name, p in module.named_parameters()
    }


def load_torch_tensors(module: Module, tensors: dict[str, np.ndarray], path: Path) -> None:
    """Copy tensors in PyTorch's layout into the parameters; `path` is named in an error."""
    tensors = {
        _OLD_NAME.sub(lambda m: f"{m[1]}{OLD_NAMES[m[2]]}.{m[3]}", name): array
        for name, array in tensors.items()
    }
    expected = torch_tensors(module)
    check_same_names(expected, tensors, path)
    for name, p in module.named_parameters():
        array = tensors[name]
        p.data = np.transpose(array, np.argsort(p.torch_axes)) if p.torch_axes else array


def check_same_names(
    expected: dict[str, np.ndarray], found: dict[str, np.ndarray], path: Path
) -> None:
    """Raise InputError unless both have the same names with the same shapes."""
    remedy = "these are the weights of another architecture; use the directory they came with."
    if missing := [name for name in expected if name not in found]:
        raise InputError(f"{path} has no tensor {missing[0]!r}: {remedy}")
    if surplus := [name for name in found if name not in expected]:
        raise InputError(f"{path} has a tensor {surplus[0]!r} that the model has not: {remedy}")
    for name, array in expected.items():
        if found[name].shape != array.shape:
            raise InputError(
                f"{path}: {name!r} has shape {found[name].shape}, "
                f"the model expects {array.shape}: {remedy}"
            )


def _unet_folder(directory: Path) -> Path:
    if not directory.is_dir():
        raise InputError(
            f"{directory} is not a directory: give a run directory, or one that diffusers' "
            "save_pretrained wrote."
        )
    for folder in (directory / "unet", directory):
        if (folder / "config.json").is_file():
            return folder
    raise InputError(
        f"{directory} holds no model (neither unet/config.json nor config.json): give a run "
        "directory, or one that diffusers' save_pretrained wrote."
    )


def _weights_file(folder: Path) -> Path:
    path = folder / WEIGHTS
    if path.is_file():
        return path
    for name in PICKLES:
        if (folder / name).is_file():
            raise InputError(
                f"{folder / name} is a pickle, which could run any code when opened: open it with "
                "diffusers and write it again with save_pretrained(..., safe_serialization=True)."
            )
    raise InputError(f"{folder} has no {WEIGHTS}: copy the weights there beside config.json.")


# --- the scheduler -------------------------------------------------------------------------------


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
        "_class_name": "DDPMScheduler",
        "_diffusers_version": DIFFUSERS_VERSION,
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
    with _named(path):
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


def save_pipeline(unet: UNet2D, diffusion: GaussianDiffusion, directory: str | Path) -> None:
    """Write a directory that diffusers.DDPMPipeline.from_pretrained opens."""
    directory = Path(directory)
    save_unet(unet, directory / "unet")
    write_json(directory / "scheduler" / "scheduler_config.json", scheduler_config(diffusion))
    index = {
        "_class_name": "DDPMPipeline",
        "_diffusers_version": DIFFUSERS_VERSION,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    write_json(directory / "model_index.json", index)


# --- files ---------------------------------------------------------------------------------------


def write_tensors(
    path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file, whole or not at all."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with atomic_write(path) as file:
        file.write(save(contiguous, metadata))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors (as float32) and the metadata of a safetensors file."""
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: give a directory that has it.") from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is no whole safetensors file ({error}): it is truncated or of another kind; "
            "copy it again."
        ) from error
    except TypeError as error:
        raise InputError(
            f"{path} holds a number type that NumPy has not ({error}): save it as float32."
        ) from error
    if wrong := [name for name, array in tensors.items() if array.dtype.kind != "f"]:
        raise InputError(f"{path}: {wrong[0]!r} is {tensors[wrong[0]].dtype}, not floating-point.")
    return {name: array.astype(np.float32, copy=False) for name, array in tensors.items()}, metadata


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, whole or not at all."""
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises InputError if there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give a directory that has it."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no JSON file ({error}): copy it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object: copy it again.")
    return content
