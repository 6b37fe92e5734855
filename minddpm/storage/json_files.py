"""JSON files: one object each, written atomically."""

import json
from pathlib import Path
from typing import Any

from minddpm.errors import InputError
from minddpm.storage.atomic import atomic_write


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(content, indent=2) + "\n").encode())


LARGEST = 2**24  # bytes; the index of a thousand tensors has a hundredth of it


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises InputError if the file has none, has more than LARGEST bytes, or is nested too deep.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(LARGEST + 1)
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give a directory that has it."
        ) from error
    if len(text) > LARGEST:
        raise InputError(f"{path} has more than {LARGEST:,} bytes: give one of a usual size.")
    try:
        content = json.loads(text.decode("utf-8"), parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON file ({error}): copy it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object: copy it again.")
    return content


def _integer(digits: str) -> int:
    if len(digits) > 20:  # 64 bits and a sign; Python's integers have no limit, but floats have one
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def diffusers_header(class_name: str) -> dict[str, str]:
    """Return the first entries of every configuration file of diffusers."""
    # 0.30.0 is the oldest release with the file formats written here.
    return {"_class_name": class_name, "_diffusers_version": "0.30.0"}
