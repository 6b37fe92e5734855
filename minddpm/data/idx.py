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
from typing import BinaryIO

import numpy as np

from minddpm.errors import InputError

GZIP_MAGIC = b"\x1f\x8b"
UINT8 = 0x08
MAX_VALUES = 2**30  # the largest of MNIST's relatives, EMNIST, has half of it
DAMAGED_GZIP = (EOFError, gzip.BadGzipFile, zlib.error)
CHUNK = 1 << 20  # bytes
AGAIN = "delete it and fetch it again"


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """Read an IDX file, gzip-compressed or plain (detected by its content, not its name).

    Returns a writable uint8 array of the shape that the header states.
    Raises InputError if the file cannot be read, is not a complete IDX file of uint8 values, or
    states more than MAX_VALUES.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            return read_idx_stream(decompressed(file), str(path))
    except DAMAGED_GZIP as error:
        raise InputError(f"{path} is a damaged gzip file ({error}): {AGAIN}.") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): check the path and its permissions."
        ) from error


def decompressed(file: BinaryIO) -> BinaryIO:
    """Return the uncompressed bytes of a file that is open at its beginning, as a stream.

    Its read() raises one of DAMAGED_GZIP for a damaged gzip file.
    """
    compressed = file.read(2) == GZIP_MAGIC
    file.seek(0)
    return gzip.open(file) if compressed else file


def read_idx_stream(file: BinaryIO, name: str) -> np.ndarray:
    """Read an IDX file that is open at its beginning; ``name`` is used in error messages.

    Reads at most one byte more than the header states: a small compressed file may hold far more.
    Returns and raises InputError as read_idx does.
    """
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\x00\x00":
        raise InputError(
            f"{name} is not an IDX file (it begins with {magic.hex(' ') or 'nothing'}, not with "
            "00 00): give one of MNIST's IDX files."
        )
    value_type, D = magic[2], magic[3]
    if value_type != UINT8:
        raise InputError(
            f"{name} holds IDX values of type 0x{value_type:02x}, not uint8 (0x08): give one of "
            "MNIST's IDX files, or convert the values to uint8."
        )
    sizes = file.read(4 * D)
    if len(sizes) < 4 * D:
        raise InputError(f"{name} ends within its IDX header, at byte {4 + len(sizes)}: {AGAIN}.")
    shape = tuple(int.from_bytes(sizes[4 * d : 4 * d + 4], "big") for d in range(D))
    if D == 0 or 0 in shape:
        raise InputError(f"{name} states the IDX shape {shape}, which holds no value: {AGAIN}.")
    promised = math.prod(shape)
    if promised > MAX_VALUES:
        raise InputError(
            f"{name} states the IDX shape {shape}, and at most {MAX_VALUES:,} values are read: "
            f"{AGAIN}, or split it."
        )
    values = bytearray()
    while chunk := file.read(min(CHUNK, promised + 1 - len(values))):
        values += chunk
    if len(values) != promised:
        wrong = "is cut short" if len(values) < promised else "has extra bytes at its end"
        raise InputError(
            f"{name} {wrong} (its shape {shape} needs {promised} values, it holds "
            f"{'more' if len(values) > promised else len(values)}): {AGAIN}."
        )
    return np.frombuffer(values, np.uint8).reshape(shape)  # writable, as the bytearray is
