"""safetensors files: named arrays and metadata (a few strings).

No pickle is read or written anywhere: a pickle can run any code when it is opened.
"""

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minddpm.errors import InputError
from minddpm.storage.atomic import atomic_write


def write_tensors(
    path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file atomically."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with atomic_write(path) as file:
        file.write(save(contiguous, metadata))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors (as float32) and the metadata of a safetensors file.

    Raises InputError for a missing or damaged file, or if a tensor is not floating-point.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = file.metadata() or {}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: give a directory that has it.") from error
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a complete safetensors file ({error}): it is truncated "
            "or of another kind; copy it again."
        ) from error
    except TypeError as error:
        raise InputError(
            f"{path} holds a number type that NumPy does not have ({error}): save it as float32."
        ) from error
    if wrong := [name for name, array in tensors.items() if array.dtype.kind != "f"]:
        raise InputError(f"{path}: {wrong[0]!r} is {tensors[wrong[0]].dtype}, not floating-point.")
    return {name: array.astype(np.float32, copy=False) for name, array in tensors.items()}, metadata


def check_same_names(
    expected: dict[str, np.ndarray], found: dict[str, np.ndarray], path: Path
) -> None:
    """Raise InputError unless expected and found have the same names and shapes."""
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
