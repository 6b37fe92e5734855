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


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises InputError if the file has none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give a directory that has it."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not a JSON file ({error}): copy it again.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object: copy it again.")
    return content


def diffusers_header(class_name: str) -> dict[str, str]:
    """Return the first entries of every configuration file of diffusers."""
    # 0.30.0 is the oldest release with the file formats written here.
    return {"_class_name": class_name, "_diffusers_version": "0.30.0"}
