"""Damage a valid file: at any byte, or where its format keeps names, sizes and checksums.

Each function takes the bytes and a random.Random, and returns other bytes.
"""

import copy
import gzip
import io
import json
import struct
import zipfile
import zlib
from random import Random
from typing import Any

INTEGERS = (0, 1, -1, 127, 128, 255, 256, 32767, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)
INTEGERS += (10**9, 10**12, 2**53, 2**63 - 1, 2**63, 2**64 - 1)
JSON_VALUES: tuple[Any, ...] = (
    *INTEGERS, None, True, False, "", "x", "é\u202e\n", "\ud800", "../../x", "/etc/passwd", [], {},
    [0], [[1]], {"x": 1}, 0.5, -0.0, 1e-320, 1e308, float("nan"), float("inf"), 10**400,
)  # fmt: skip


# --- any bytes -----------------------------------------------------------------------------------


def anywhere(raw: bytes, rng: Random) -> bytes:
    """Do one to four kinds of damage, each at a random place."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        a, b = sorted(rng.randrange(len(raw) + 1) for _ in range(2))
        b = min(b, a + rng.choice((1, 2, 4, 8, 64, 4096)))
        raw = rng.choice(KINDS)(raw, a, b, rng)
    return raw


def _integer(raw: bytes, a: int, b: int, rng: Random) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice(INTEGERS) % 256**size
    return raw[:a] + value.to_bytes(size, rng.choice(("big", "little"))) + raw[a + size :]


KINDS = (
    lambda raw, a, b, rng: raw[:a] + bytes(x ^ 1 << rng.randrange(8) for x in raw[a:b]) + raw[b:],
    lambda raw, a, b, rng: raw[:a],  # truncate
    lambda raw, a, b, rng: raw + rng.randbytes(b - a),  # extend
    lambda raw, a, b, rng: raw[:b] + raw[a:],  # duplicate
    lambda raw, a, b, rng: raw[:a] + raw[b:],  # remove
    lambda raw, a, b, rng: raw[:a] + rng.randbytes(b - a) + raw[b:],  # splice
    lambda raw, a, b, rng: raw[:a] + bytes(b - a) + raw[b:],  # zeros
    _integer,
)


# --- JSON and safetensors ------------------------------------------------------------------------


def json_file(raw: bytes, rng: Random) -> bytes:
    """Change, remove or add entries at any depth of a JSON file."""
    content = json.loads(raw)
    for _ in range(rng.choice((1, 1, 2))):
        _change(content, rng)
    return json.dumps(content).encode("utf-8", "surrogatepass")


def _change(content: Any, rng: Random) -> None:
    entries = list(content) if isinstance(content, dict) else range(len(content))
    key = rng.choice(entries) if entries else None
    if key is not None and isinstance(content[key], (dict, list)) and rng.random() < 0.7:
        _change(content[key], rng)
        return
    value, action = copy.deepcopy(rng.choice(JSON_VALUES)), rng.random()
    if key is not None and action < 0.6:
        content[key] = value
    elif key is not None and action < 0.8:
        del content[key]
    elif isinstance(content, dict):
        content[rng.choice(("x", "", "é\n", "../x", str(key) * 2))] = value
    else:
        content.append(value)


def safetensors_header(raw: bytes, rng: Random) -> bytes:
    """Change the JSON header of a safetensors file, and its stated length to match."""
    end = 8 + int.from_bytes(raw[:8], "little")
    header = json_file(raw[8:end], rng)
    return len(header).to_bytes(8, "little") + header + raw[end:]


# --- IDX and gzip --------------------------------------------------------------------------------


def idx_header(raw: bytes, rng: Random) -> bytes:
    """Change the type, the number of dimensions or a size in the header of an IDX file."""
    if rng.random() < 0.2:
        place = rng.choice((2, 3))
        return raw[:place] + bytes([rng.randrange(256)]) + raw[place + 1 :]
    place = 4 + 4 * rng.randrange(raw[3])
    value = rng.choice(INTEGERS) % 2**32
    return raw[:place] + value.to_bytes(4, "big") + raw[place + 4 :]


def gzipped(damage: Any) -> Any:
    """Return a damage that is done before the file is compressed."""
    return lambda raw, rng: gzip.compress(damage(raw, rng), 1, mtime=0)


# --- .npz ----------------------------------------------------------------------------------------

NPY_HEADERS = (
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000,), }",
    b"{'descr': '<f8', 'fortran_order': True, 'shape': (4, 8, 8), }",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8), }",
    b"{'descr': '|O', 'fortran_order': False, 'shape': (4, 8, 8), }",
    b"{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (4, 8, 1), }",
    b"{'descr': '<U64', 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': '|V256', 'fortran_order': False, 'shape': (1,), }",
    b"{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (256,), }",
    b"{'descr': '<c16', 'fortran_order': False, 'shape': (4, 2, 2), }",
    b"{'descr': '>i4', 'fortran_order': 1, 'shape': [4, 4, 4], }",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (" + b"1, " * 70 + b"), }",
    b"{'descr': '|u1', 'fortran_order': False, 'shape': (0, " + b"9" * 30 + b"), }",
    b"[" * 200 + b"]" * 200,
    b"__import__('os').abort()",
)


def npz_members(raw: bytes, rng: Random) -> bytes:
    """Damage the arrays inside an .npz, or their names, under right checksums."""
    with zipfile.ZipFile(io.BytesIO(raw)) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    place = rng.randrange(len(members))
    name, array = members[place]
    action = rng.random()
    if action < 0.4:
        array = anywhere(array, rng)
    elif action < 0.8:
        header = rng.choice(NPY_HEADERS) + b"\n"
        array = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + array[128:]
    else:
        name = rng.choice(("../../x.npy", "/x.npy", "", "images", "labels.npy", "é\n.npy"))
        members += [(f"{i}.npy", array) for i in range(rng.choice((0, 1, 500)))]
    members[place] = name, array
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as file:
        for name, array in members:
            file.writestr(zipfile.ZipInfo(name), array)
    return out.getvalue()


# --- PNG -----------------------------------------------------------------------------------------


def png_chunks(raw: bytes, rng: Random) -> bytes:
    """Damage, repeat, remove or reorder the chunks of a PNG, under right checksums."""
    chunks, place = [], 8
    while place < len(raw):
        size = int.from_bytes(raw[place : place + 4], "big")
        chunks.append((raw[place + 4 : place + 8], raw[place + 8 : place + 8 + size]))
        place += 12 + size
    i = rng.randrange(len(chunks))
    kind, data = chunks[i]
    action = rng.random()
    if action < 0.4 and kind == b"IHDR":  # width, height
        chunks[i] = (
            kind,
            struct.pack(">II", *(rng.choice(INTEGERS) % 2**32 for _ in "WH")) + data[8:],
        )
    elif action < 0.6:
        chunks[i] = kind, anywhere(data, rng)
    elif action < 0.7:
        chunks.insert(rng.randrange(len(chunks)), chunks[i])
    elif action < 0.8:
        del chunks[i]
    else:
        extra = rng.choice((b"tEXt", b"iTXt", b"zTXt", b"iCCP", b"eXIf", b"PLTE", b"tRNS", b"acTL"))
        chunks.insert(1, (extra, zlib.compress(bytes(10**6)) if rng.random() < 0.5 else data))
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    return raw[:8] + body
