"""A UNet's files, as diffusers' UNet2DModel.save_pretrained writes them.

config.json                                 the arguments of UNet2D
diffusion_pytorch_model.safetensors         the weights, in PyTorch's layout

What diffusers writes on request is read, too: variants (...model.fp16.safetensors), whose float16
or bfloat16 numbers become float32, and weights in several files with an index.
"""

import re
import reprlib
from pathlib import Path
from typing import Any

import numpy as np

from minddpm.errors import InputError
from minddpm.models.config import LABEL_NAMES
from minddpm.nn import Module
from minddpm.nn.torch_layout import torch_tensors
from minddpm.storage.json_files import diffusers_header, read_json, write_json
from minddpm.storage.tensors import read_tensors, write_tensors

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
VARIANT = re.compile(
    r"diffusion_pytorch_model\.\w+\.safetensors"
    r"|diffusion_pytorch_model\.safetensors\.index\.\w+\.json"
)
SHARD = re.compile(r"[\w.-]+\.safetensors")
PICKLES = ("diffusion_pytorch_model.bin", "pytorch_model.bin")


def write_pretrained(module: Module, config: dict[str, Any], directory: Path) -> None:
    """Write config.json and the weights into `directory`."""
    write_tensors(directory / WEIGHTS, torch_tensors(module), {"format": "pt"})
    write_json(directory / CONFIG, diffusers_header("UNet2DModel") | config)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration in a model's folder, without the private entries of diffusers.

    Raises InputError for a missing or damaged file, and for a model that is not a UNet2DModel.
    """
    return read_config_file(folder / CONFIG)


def read_config_file(path: Path) -> dict[str, Any]:
    """Return the configuration in a JSON file, as read_config does."""
    config = read_json(path)
    kind = config.get("_class_name", "UNet2DModel")
    if kind != "UNet2DModel":
        raise InputError(f"{path} describes a {kind}: minddpm runs diffusers' UNet2DModel only.")
    return {k: v for k, v in config.items() if not k.startswith("_") or k == LABEL_NAMES}


def read_weights(folder: Path) -> dict[str, np.ndarray]:
    """Return the weights in a model's folder, float32 in PyTorch's layout.

    Raises InputError as weight_files does, and for a truncated file.
    """
    tensors: dict[str, np.ndarray] = {}
    for path in weight_files(folder):
        tensors |= read_tensors(path)[0]
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """Return the files that hold the weights, in this order of preference.

    The plain file, or the shards that its index names; else those of the only variant, such as
    diffusion_pytorch_model.fp16.safetensors. A symbolic link is followed wherever it leads (the
    cache of Hugging Face consists of them), but a shard's name must not lead out of the folder.
    Raises InputError if there is none, if there are several variants, for a pickle, and for an
    index with other names.
    """
    for path in (folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"):
        if path.is_file():
            return _shards(path)
    variants = sorted(path for path in folder.iterdir() if VARIANT.fullmatch(path.name))
    if len(variants) > 1:
        raise InputError(
            f"{folder} has several variants of the weights "
            f"({', '.join(path.name for path in variants)}): keep one, or name one {WEIGHTS}."
        )
    if variants:
        return _shards(variants[0])
    for name in PICKLES:
        if (folder / name).is_file():
            raise InputError(
                f"{folder / name} is a pickle, which could run any code when opened: load it with "
                "diffusers and save it again with save_pretrained(..., safe_serialization=True)."
            )
    raise InputError(f"{folder} has no {WEIGHTS}: copy the weights there beside {CONFIG}.")


def _shards(path: Path) -> list[Path]:
    """Return [path], or the files that path names if it is an index."""
    if path.suffix != ".json":
        return [path]
    shards = read_json(path).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise InputError(f"{path} has no weight_map of tensors and their files: copy it again.")
    for name in shards.values():
        if not isinstance(name, str) or not SHARD.fullmatch(name):
            raise InputError(
                f"{path} names the file {reprlib.repr(name)}: give names such as "
                "diffusion_pytorch_model-00001-of-00002.safetensors, in the same folder."
            )
    return [path.with_name(name) for name in sorted(set(shards.values()))]


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
