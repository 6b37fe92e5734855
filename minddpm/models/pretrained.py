"""A UNet's files, as diffusers' UNet2DModel.save_pretrained writes them.

config.json                                 the arguments of UNet2D
diffusion_pytorch_model.safetensors         the weights, in PyTorch's layout
"""

from pathlib import Path
from typing import Any

import numpy as np

from minddpm.errors import InputError
from minddpm.nn import Module
from minddpm.nn.torch_layout import torch_tensors
from minddpm.storage.json_files import diffusers_header, read_json, write_json
from minddpm.storage.tensors import read_tensors, write_tensors

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
PICKLES = ("diffusion_pytorch_model.bin", "pytorch_model.bin")


def write_pretrained(module: Module, config: dict[str, Any], directory: Path) -> None:
    """Write config.json and the weights into `directory`."""
    write_tensors(directory / WEIGHTS, torch_tensors(module), {"format": "pt"})
    write_json(directory / CONFIG, diffusers_header("UNet2DModel") | config)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration in a model's folder, without diffusers' private entries.

    Raises InputError for a missing or damaged file, and for a model that is not a UNet2DModel.
    """
    path = folder / CONFIG
    config = read_json(path)
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise InputError(f"{path} describes a {kind}: minddpm runs diffusers' UNet2DModel only.")
    return {key: value for key, value in config.items() if not key.startswith("_")}


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """Return the weights in a model's folder, float32 in PyTorch's layout.

    Raises InputError for a missing or truncated file, and for a pickle.
    """
    path = folder / WEIGHTS
    if path.is_file():
        return read_tensors(path)[0]
    for name in PICKLES:
        if (folder / name).is_file():
            raise InputError(
                f"{folder / name} is a pickle, which could run any code when opened: load it with "
                "diffusers and save it again with save_pretrained(..., safe_serialization=True)."
            )
    raise InputError(f"{folder} has no {WEIGHTS}: copy the weights there beside {CONFIG}.")


def model_folder(directory: Path) -> Path:
    """Return the folder that holds the model within a run, pipeline or model directory.

    Raises InputError if there is none.
    """
    if not directory.is_dir():
        raise InputError(
            f"{directory} is not a directory: give a run directory, or one that diffusers' "
            "save_pretrained wrote."
        )
    for folder in (directory / "unet", directory):
        if (folder / CONFIG).is_file():
            return folder
    raise InputError(
        f"{directory} holds no model (neither unet/{CONFIG} nor {CONFIG}): give a run "
        "directory, or one that diffusers' save_pretrained wrote."
    )
