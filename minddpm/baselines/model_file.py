"""Save a model in one safetensors file: weights in PyTorch's layout, class, configuration."""

import json
from pathlib import Path
from typing import Any, TypeVar

from minddpm.errors import InputError
from minddpm.nn import Module
from minddpm.nn.init import sized_for
from minddpm.nn.torch_layout import load_torch_tensors, torch_tensors
from minddpm.storage.tensors import read_tensors, write_tensors

M = TypeVar("M", bound=Module)


def save_model(module: Module, path: Path, about: dict[str, str] | None = None) -> None:
    """Write a module and its `config` (the arguments of its class); about: further metadata."""
    config = {"class": type(module).__name__, "config": json.dumps(module.config)}
    write_tensors(path, torch_tensors(module), config | (about or {}))


def load_model(kind: type[M], path: Path, written_by: str) -> tuple[M, dict[str, Any]]:
    """Read a module of class `kind` from a file; return it in eval mode, and the metadata.

    written_by: the command that writes such files, for the error message. Raises InputError for any
    other file.
    """
    tensors, about = read_tensors(path)
    try:
        if about["class"] != kind.__name__:
            raise ValueError(f"it holds a {about['class']}")
        with sized_for(tensors):
            module = kind(**json.loads(about["config"]))
    except Exception as error:  # a configuration of any type and range may be in the file
        raise InputError(
            f"{path} is no {kind.__name__} of minddpm ({error!r}): give a file that {written_by} "
            "wrote."
        ) from error
    load_torch_tensors(module, tensors, path)
    return module.eval(), about
