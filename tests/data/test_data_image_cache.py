"""Many image files: decoded once by other processes, then read from the disk."""

import mmap
import os
import re
import sys
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from minddpm.data import ImageDataset, decode, folder, image_cache
from minddpm.data.folder import load_folder, load_image_files
from minddpm.data.image_files import ImageFiles


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache folder, and every folder counts as one of many files."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(folder, "FEW", 0)
    return tmp_path / "xdg" / "minddpm" / "images"


@pytest.fixture
def photos(tmp_path):
    for i in range(7):
        path = tmp_path / "photos" / ("cat" if i < 4 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), (i, 20, 30)).save(path)
    return tmp_path / "photos"


def no_decoding(monkeypatch):
    def fail(*_):
        raise AssertionError("the images were decoded again")

    monkeypatch.setattr(image_cache, "decode", fail)


def test_the_second_start_decodes_nothing(photos, monkeypatch):
    (photos / "cat" / "0a.png").write_bytes(b"damaged")
    first, expected = load_image_files(photos, (6, 8)), load_folder(photos, (6, 8))
    assert first.mapping is not None
    no_decoding(monkeypatch)
    for data in (first, load_image_files(photos, (6, 8))):
        np.testing.assert_array_equal(data.images, expected.images)
        assert data.identity() == expected.identity()
        assert data.labels.tolist() == [0, 0, 0, 0, 1, 1, 1]
    chosen = np.array([5, 0, 5])
    np.testing.assert_array_equal(data.pixels(chosen), expected.images[chosen])
    assert data.pixels(chosen).flags.writeable


@pytest.mark.parametrize("change", ["content", "name", "size", "channels", "damaged cache"])
def test_a_change_decodes_again(photos, change, cache):
    before = load_image_files(photos, (6, 8)).images.copy()
    size, channels = (6, 8), None
    first = photos / "cat" / "0.png"
    if change == "content":
        stat = first.stat()
        Image.new("RGB", (8, 6), (99, 20, 30)).save(first)
        os.utime(first, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if it had not changed
    elif change == "name":
        first.rename(photos / "dog" / "9.png")
    elif change == "size":
        size = (4, 4)
    elif change == "channels":
        channels = 1
    else:
        next(cache.glob("*.pixels")).write_bytes(b"cut")
    now = load_image_files(photos, size, channels)
    np.testing.assert_array_equal(now.images, load_folder(photos, size, channels).images)
    if change == "content":
        assert (now.images[0] != before[0]).any()


def test_grey_images_are_stored_with_one_channel(tmp_path):
    for i in range(3):
        Image.new("L", (8, 6), 100 + i).save(tmp_path / f"{i}.png")
    data = load_image_files(tmp_path, (6, 8))
    assert data.images.shape == (3, 6, 8, 1)
    assert data.images[:, 0, 0, 0].tolist() == [100, 101, 102]


def test_worker_processes_decode_the_same(photos, monkeypatch, capsys):
    (photos / "dog" / "bad.png").write_bytes(b"damaged")
    Image.fromarray(np.full((6, 8), 500, np.uint16)).save(photos / "cat" / "deep.png")
    alone = load_folder(photos, (6, 8))
    capsys.readouterr()
    monkeypatch.setattr(decode, "FEW", 0)
    monkeypatch.setattr(decode, "PART", 2)
    monkeypatch.setattr(decode, "_cores", lambda: 1)
    np.testing.assert_array_equal(load_folder(photos, (6, 8)).images, alone.images)
    stderr = capsys.readouterr().err
    assert "bad.png: not a readable image, skipped" in stderr
    assert "hold 500 .. 500" in stderr


def test_stamps_of_an_archive_follow_the_content(tmp_path):
    stamps = []
    for value in (1, 2):
        Image.new("L", (2, 2), value).save(tmp_path / "a.png")
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.write(tmp_path / "a.png", "a.png")
        stamps.append(ImageFiles(tmp_path / "a.zip").stamps)
    assert stamps[0] != stamps[1]


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")
def test_what_was_read_does_not_stay_in_memory(tmp_path):
    def megabytes():
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"RssFile:\s+(\d+)", status)[1]) / 1000

    shape = (1000, 100, 100, 3)  # 30 MB
    (tmp_path / "a.pixels").write_bytes(bytes(30_000_000))
    with (tmp_path / "a.pixels").open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    data = ImageDataset(np.frombuffer(mapping, np.uint8).reshape(shape), None, "a", mapping=mapping)
    before = megabytes()
    for start in range(0, 1000, 50):
        data.pixels(np.arange(start, start + 50))
    assert megabytes() < before + 5


def test_a_second_start_says_again_how_many_files_were_skipped(photos, capsys):
    (photos / "cat" / "0a.png").write_bytes(b"damaged")
    for _ in range(2):
        load_image_files(photos, (6, 8))
        assert capsys.readouterr().err.count("skipped 1 of 8 files") == 1


def test_a_resumed_run_uses_what_its_first_start_decoded(photos, monkeypatch):
    first = load_image_files(photos, (6, 8))
    no_decoding(monkeypatch)
    np.testing.assert_array_equal(load_image_files(photos, (6, 8), 3).images, first.images)
    with pytest.raises(AssertionError, match="decoded again"):
        load_image_files(photos, (6, 8), 1)


def test_two_processes_that_decode_the_same_folder(tmp_path, monkeypatch):
    grey = tmp_path / "grey"
    grey.mkdir()
    for i in range(3):
        Image.new("L", (8, 6), 100 + i).save(grey / f"{i}.png")
    original, other = image_cache.atomic_write, []

    @contextmanager
    def then_the_other(path):
        with original(path) as file:
            yield file
        monkeypatch.setattr(image_cache, "atomic_write", original)
        if not other:  # it starts and ends before this one continues
            other.append(load_image_files(grey, (6, 8)).images.copy())

    expected = load_folder(grey, (6, 8)).images
    monkeypatch.setattr(image_cache, "atomic_write", then_the_other)
    mine = load_image_files(grey, (6, 8)).images
    for images in (mine, other[0], load_image_files(grey, (6, 8)).images):
        np.testing.assert_array_equal(images, expected)
