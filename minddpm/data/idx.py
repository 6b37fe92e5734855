"""IDX, the file format of MNIST: a four-byte magic number, the sizes, then the raw values.

    byte 0, 1   zero
    byte 2      type of a value; 0x08 is uint8, the only one that MNIST uses
    byte 3      number of dimensions D
    4 bytes     the size of each dimension, D times, big-endian
    the rest    the values, last dimension fastest

Source: Y. LeCun, C. Cortes, C. Burges, "The MNIST database of handwritten digits".
"""

import gzip
import math
import os
import zlib
from pathlib import Path

import numpy as np

from minddpm.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
UINT8 = 0x08
AGAIN = "delete it and fetch it again"


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Read an IDX file, gzip-compressed or plain (detected by its content, not its name).

    Returns a writable uint8 array of the shape that the header states.
    Raises InputError if the file cannot be read, or is not a complete IDX file of uint8 values.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check the path and its permissions."
        ) from error
    return read_idx_bytes(decompress(raw, str(path)), str(path))


def decompress(raw: bytes, name: str) -> bytes:
    """Decompress gzip; return other bytes unchanged.

    name: used in error messages. Raises InputError if a gzip stream is damaged.
    """
    if not raw.startswith(GZIP_MAGIC):
        return raw
    try:
        return gzip.decompress(raw)
    except (EOFError, OSError, zlib.error) as error:
        raise InputError(f"{name} is a damaged gzip file ({error}): {AGAIN}.") from error


def read_idx_bytes(raw: bytes, name: str) -> np.ndarray:
    """Read the uncompressed bytes of an IDX file; ``name`` is used in error messages.

    Returns a writable uint8 array of the shape that the header states.
    Raises InputError if the bytes are not exactly one IDX file of uint8 values.
    """
    if len(raw) < 4 or raw[:2] != b"\x00\x00":
        raise InputError(
            f"{name} is not an IDX file (it begins with {raw[:4].hex(' ') or 'nothing'}, not with "
            "00 00): give one of MNIST's IDX files."
        )
    value_type, D = raw[2], raw[3]
    if value_type != UINT8:
        raise InputError(
            f"{name} holds IDX values of type 0x{value_type:02x}, not uint8 (0x08): give one of "
            "MNIST's IDX files, or convert the values to uint8."
        )
    header = 4 + 4 * D
    if len(raw) < header:
        raise InputError(f"{name} ends within its IDX header, at byte {len(raw)}: {AGAIN}.")
    shape = tuple(int.from_bytes(raw[4 + 4 * d : 8 + 4 * d], "big") for d in range(D))
    if D == 0 or 0 in shape:
        raise InputError(f"{name} states the IDX shape {shape}, which holds no value: {AGAIN}.")
    promised, present = math.prod(shape), len(raw) - header
    if present != promised:
        wrong = "is cut short" if present < promised else "has extra bytes at its end"
        raise InputError(
            f"{name} {wrong} (its shape {shape} needs {promised} values, it holds {present}): "
            f"{AGAIN}."
        )
    # frombuffer returns a read-only view of the bytes; the copy is writable.
    return np.frombuffer(raw, np.uint8, offset=header).reshape(shape).copy()
