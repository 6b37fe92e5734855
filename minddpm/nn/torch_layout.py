"""Conversion of parameters from channels-last layout to PyTorch's (OIHW), and back."""

import re
from pathlib import Path

import numpy as np

from minddpm import backend
from minddpm.nn.module import Module
from minddpm.storage.tensors import check_same_names

# Ho et al.'s published models name the attention layers as diffusers did before 0.15.
OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(attentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)$")


def torch_tensors(module: Module) -> dict[str, np.ndarray]:
    """Return every parameter on the host in PyTorch's layout, by name."""
    return {
        name: np.transpose(backend.to_numpy(p.data), p.torch_axes)
        if p.torch_axes
        else backend.to_numpy(p.data)
        for name, p in module.named_parameters()
    }


def load_torch_tensors(module: Module, tensors: dict[str, np.ndarray], path: Path) -> None:
    """Copy tensors in PyTorch's layout into the parameters; error messages name `path`."""
    tensors = {
        _OLD_NAME.sub(lambda m: f"{m[1]}{OLD_NAMES[m[2]]}.{m[3]}", name): array
        for name, array in tensors.items()
    }
    expected = torch_tensors(module)
    check_same_names(expected, tensors, path)
    for name, p in module.named_parameters():
        array = tensors[name]
        p.data = np.transpose(array, np.argsort(p.torch_axes)) if p.torch_axes else array
