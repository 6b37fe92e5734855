"""Images of every pixel depth: a folder has one scale, and says which one."""

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from minddpm.data import load_folder

SAMPLE_FORMAT, PHOTOMETRIC = 339, 262
SIGNED, UNSIGNED, BLACK_IS_ZERO, WHITE_IS_ZERO = 2, 1, 1, 0


def pixels(folder, channels=1):
    return load_folder(folder, 1, channels).images.reshape(-1, channels).squeeze().tolist()


def save_each(folder, values, dtype, ext="tif", **options):
    """Save each value as an image of one pixel."""
    for i, value in enumerate(values):
        path = folder / f"{i}.{ext}"
        Image.fromarray(np.array([[value]], dtype)).save(path, **options)


def change_tag(folder, tag, old, new):
    """Change a tag of every TIFF in the folder."""
    for path in folder.iterdir():
        raw = path.read_bytes()
        entry = struct.pack("<HHIH", tag, 3, 1, old)
        assert entry in raw
        path.write_bytes(raw.replace(entry, struct.pack("<HHIH", tag, 3, 1, new)))


def write_png(path, depth, colour_type, row, transparent=None):
    """Write one pixel, which Pillow cannot save at this depth."""

    def chunk(name, content):
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    key = chunk(b"tRNS", transparent) if transparent else b""
    head = struct.pack(">IIBBBBB", 1, 1, depth, colour_type, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" + row))
    signature = b"\x89PNG\r\n\x1a\n"
    path.write_bytes(signature + chunk(b"IHDR", head) + key + data + chunk(b"IEND", b""))


GREY, RGB = 0, 2


@pytest.mark.parametrize(
    ("values", "dtype", "expected", "white"),
    [
        ((257 * 100, 257 * 100 + 100, 65535), np.uint16, [100, 100, 255], "65535"),
        ((0, 2048, 4095), np.uint16, [0, 128, 255], "4095"),  # 12 bits in 16
        ((0, 1), np.uint16, [0, 255], "1"),
        ((0, 1), np.int32, [0, 255], "1"),
        ((0, 100, 255), np.int32, [0, 100, 255], "255"),
        ((0, 65535), np.int32, [0, 255], "65535"),
        ((0, 500_000, 1_000_000), np.int32, [0, 128, 255], "1000000"),
        ((-100, 0, 100), np.int32, [0, 128, 255], "100"),
        ((-100, 0, 100), np.int16, [0, 128, 255], "100"),
        ((0, 0.5), np.float32, [0, 128], "1"),
        ((0, 100, 255), np.float32, [0, 100, 255], "255"),
        ((0, 1e-5), np.float32, [0, 255], "1e-05"),
        ((-1, 0, 1), np.float32, [0, 128, 255], "1"),
        ((5, 5), np.float32, [0, 0], "6"),
        ((0, 0), np.uint16, [0, 0], "1"),
    ],
)
def test_a_folder_has_one_scale_and_says_it(tmp_path, capsys, values, dtype, expected, white):
    save_each(tmp_path, values, dtype)
    assert pixels(tmp_path) == expected
    stderr = capsys.readouterr().err
    assert stderr.count("is black") == 1
    assert f"{tmp_path}: {len(values)} images of " in stderr
    assert f"is black, {white} is white" in stderr


def test_each_kind_has_its_own_scale(tmp_path, capsys):
    save_each(tmp_path, (0, 4095), np.uint16, "png")
    save_each(tmp_path, (0, 0.5), np.float32)
    assert pixels(tmp_path) == [0, 0, 255, 128]  # 0.png, 0.tif, 1.png, 1.tif
    assert capsys.readouterr().err.count("is white") == 2


def test_what_a_tiff_states_of_its_values_is_used(tmp_path):
    save_each(tmp_path, (0, 2**31 - 1, -1), np.int32)  # -1 has the bits of 2^32 - 1
    change_tag(tmp_path, SAMPLE_FORMAT, SIGNED, UNSIGNED)
    assert pixels(tmp_path) == [0, 127, 255]


def test_eight_signed_bits(tmp_path):
    save_each(tmp_path, (156, 0, 100), np.uint8, tiffinfo={SAMPLE_FORMAT: SIGNED})
    assert pixels(tmp_path) == [0, 128, 255]  # -100, 0, 100


def test_zero_may_be_white(tmp_path):
    save_each(tmp_path, (0, 65535), np.uint16)
    change_tag(tmp_path, PHOTOMETRIC, BLACK_IS_ZERO, WHITE_IS_ZERO)
    assert pixels(tmp_path) == [255, 0]


def test_a_format_that_states_its_range(tmp_path):
    """A PGM with the largest value 4095: a dark image stays dark."""
    (tmp_path / "a.pgm").write_bytes(b"P5 1 1 4095\n" + struct.pack(">H", 200))
    assert pixels(tmp_path) == round(200 / 4095 * 255)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(tmp_path, capsys, value):
    save_each(tmp_path, (value, 0, 1), np.float32)
    assert pixels(tmp_path) == [0, 255]
    assert "0.tif: not a readable image, skipped (1 of its 1 values" in capsys.readouterr().err


def test_transparency_of_sixteen_bit_grey(tmp_path):
    save_each(tmp_path, (0, 1, 4095), np.uint16, "png", transparency=0)
    assert pixels(tmp_path) == [255, 0, 255]


def test_a_transparent_value_is_outside_the_scale(tmp_path):
    save_each(tmp_path, (65535, 4095), np.uint16, "png", transparency=65535)
    assert pixels(tmp_path) == [255, 255]
    save_each(tmp_path, (65535, 0), np.uint16, "png", transparency=65535)
    assert pixels(tmp_path) == [255, 0]


@pytest.mark.parametrize(
    ("depth", "kind", "row", "transparent"),
    [
        (2, GREY, b"\x40", b"\0\1"),
        (4, GREY, b"\x10", b"\0\1"),
        (8, GREY, b"\1", b"\0\1"),
        (16, RGB, b"\0\0\x0f\xff\1\0", b"\0\0\x0f\xff\1\0"),
    ],
)
def test_a_transparent_value_of_any_depth(tmp_path, depth, kind, row, transparent):
    write_png(tmp_path / "a.png", depth, kind, row, transparent)
    assert pixels(tmp_path, 3) == [255, 255, 255]


def test_dark_colours_of_sixteen_bits_are_named(tmp_path, capsys):
    """Pillow reads their upper 8 bits only, so that 12 bits in 16 leave 0 .. 15."""
    write_png(tmp_path / "a.png", 16, RGB, b"\x0f\xff" * 3)
    assert pixels(tmp_path, 3) == [15, 15, 15]
    assert "1 images of 16 bits per channel use less than 1/16" in capsys.readouterr().err
    write_png(tmp_path / "b.png", 16, RGB, b"\xff\xff" * 3)
    pixels(tmp_path)
    assert capsys.readouterr().err == ""
