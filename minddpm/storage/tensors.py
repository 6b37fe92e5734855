"""safetensors files: named arrays and metadata (a few strings).

No pickle is read or written anywhere: a pickle can run any code when it is opened.
"""

import json
import math
import reprlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from minddpm.errors import InputError
from minddpm.storage.atomic import atomic_write
from minddpm.storage.memory import check_memory


def write_tensors(
    path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None
) -> None:
    """Write a safetensors file atomically."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    with atomic_write(path) as file:
        file.write(save(contiguous, metadata))


def read_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Return the tensors (as float32) and the metadata of a safetensors file.

    Raises InputError for a missing or damaged file, a tensor that is not of a type of TYPES, and a
    file that this machine's memory cannot hold.
    """
    tensors, header = {}, read_header(path)
    check_memory(4 * sum(math.prod(entry["shape"]) for entry in header.tensors.values()), path)
    with open(path, "rb") as file:
        for name, entry in header.tensors.items():
            file.seek(header.length + entry["data_offsets"][0])
            stored = TYPES[entry["dtype"]]
            array = np.fromfile(file, stored, math.prod(entry["shape"]))
            if entry["dtype"] == "BF16":  # the upper half of a float32
                array = (array.astype(np.uint32) << 16).view(np.float32)
            tensors[name] = array.astype(np.float32, copy=False).reshape(entry["shape"])
    return tensors, header.metadata


class Header(NamedTuple):
    """What a safetensors file says about its tensors: {name: {dtype, shape, data_offsets}}."""

    tensors: dict[str, dict[str, Any]]
    metadata: dict[str, str]
    length: int  # bytes before the first tensor, from which the offsets count


def read_header(path: Path) -> Header:
    """Return the header of a safetensors file; nothing of its size is allocated.

    Raises InputError as read_tensors does.
    """
    if path.is_file():
        check_memory(path.stat().st_size, path)  # the library maps the file into memory
    try:
        # The library refuses a header of more than 100 MB, and offsets that leave gaps, overlap,
        # differ from the shapes or do not end where the file ends.
        with safe_open(path, framework="numpy"), open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist: give a directory that has it.") from error
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is not a complete safetensors file ({error}): it is truncated "
            "or of another kind; copy it again."
        ) from error
    metadata = header.pop("__metadata__", None) or {}
    for name, entry in header.items():
        if entry["dtype"] not in TYPES:
            raise InputError(
                f"{path}: {reprlib.repr(name)} has the type {entry['dtype']}: save it as float32."
            )
    return Header(header, metadata, 8 + length)


# safetensors' floating-point types, little-endian; NumPy has no bfloat16.
TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


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
