"""An .npz of images from a stranger: false headers and sizes are refused in one sentence."""

import struct
import zipfile

import numpy as np
import pytest

from minddpm.data import image_archive
from minddpm.data.image_archive import read_images
from refusals import refused

HEADER = "{{'descr': '|u1', 'fortran_order': False, 'shape': {}}}\n"


@pytest.mark.parametrize("shape", ["(10**12,)", "(1000000000000,)", "(1" + "0" * 30 + ",)", "(("])
def test_an_array_with_a_false_header_is_refused(shape, tmp_path):
    header = HEADER.format(shape).encode()
    with zipfile.ZipFile(tmp_path / "false.npz", "w") as file:
        file.writestr("images.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header)
    with refused("false.npz", "not a complete .npz file", "np.savez"):
        read_images(tmp_path / "false.npz")


def test_a_member_that_is_no_array_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as file:
        file.writestr("images", "not an array")
    with refused("text.npz", "np.savez"):
        read_images(tmp_path / "text.npz")


def test_an_archive_that_is_larger_inside_than_the_limit_is_not_decompressed(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "a.npz", images=np.zeros((4, 8, 8), np.uint8), more=np.zeros(9))
    monkeypatch.setattr(image_archive, "MAX_BYTES", 128 + 4 * 8 * 8)  # with the array's header
    assert len(read_images(tmp_path / "a.npz")[0]) == 4
    monkeypatch.setattr(image_archive, "MAX_BYTES", 4 * 8 * 8)
    monkeypatch.setattr(zipfile.ZipFile, "open", None)
    with refused("a.npz", "384 bytes", "at most 256", "fewer images"):
        read_images(tmp_path / "a.npz")


def test_labels_are_refused_by_the_name_of_their_array(tmp_path):
    images = np.zeros((2, 8, 8), np.uint8)
    for labels, word in ((np.zeros(3, int), "(3,) for 2 images"), (np.array([0, 2**16]), "65536")):
        np.savez(tmp_path / "a.npz", x=images, y=labels)
        with refused("'y'", word):
            read_images(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", x=images, y=[0, 2**16 - 1])
    assert read_images(tmp_path / "a.npz")[1].tolist() == [0, 2**16 - 1]
