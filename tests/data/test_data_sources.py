"""What --data takes: archives and their labels, .npz files, sizes that are not square, channels."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from minddpm.data import decode
from minddpm.data.fit import parse_size, size_option
from minddpm.data.folder import load_folder
from minddpm.data.sources import load_images
from refusals import refused

RED, GREY = (200, 10, 30), (90, 90, 90)


def png(path, colour, size=(6, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def zipped(folder, path, **texts):
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.png")):
            archive.write(file, file.relative_to(folder))
        for name, text in texts.items():
            archive.writestr(name.replace("_", "."), text)
    return path


def test_an_archive_is_read_as_its_folder(tmp_path):
    for i, name in enumerate(("10/a.png", "2/b.png", "2/.hidden.png")):
        png(tmp_path / "all" / name, (i, 0, 90))
    in_folder = load_images(tmp_path / "all", (4, 6))
    archive = load_images(zipped(tmp_path / "all", tmp_path / "all.zip"), (4, 6))
    np.testing.assert_array_equal(archive.images, in_folder.images)
    assert archive.label_names == in_folder.label_names == ("2", "10")
    assert archive.labels.tolist() == in_folder.labels.tolist() == [1, 0]


def test_one_folder_around_everything_is_no_class(tmp_path):
    for name in ("photos/cat/1.png", "photos/dog/1.png"):
        png(tmp_path / "all" / name, RED)
    data = load_images(zipped(tmp_path / "all", tmp_path / "a.zip"), (4, 6))
    assert data.label_names == ("cat", "dog")
    png(tmp_path / "all" / "1.png", RED)
    assert load_images(zipped(tmp_path / "all", tmp_path / "b.zip"), (4, 6)).labels is None


@pytest.mark.parametrize("archive", [True, False])
def test_labels_of_dataset_json(tmp_path, archive):
    for i in range(3):
        png(tmp_path / "all" / "00000" / f"img{i}.png", RED)

    def load(content):
        text = json.dumps(content)
        if archive:
            return load_images(zipped(tmp_path / "all", tmp_path / "a.zip", dataset_json=text))
        (tmp_path / "all" / "dataset.json").write_text(text)
        return load_images(tmp_path / "all")

    pairs = [[f"00000/img{i}.png", label] for i, label in enumerate((2, 0, 1))]
    assert load({"labels": pairs}).labels.tolist() == [2, 0, 1]
    assert load({"labels": pairs}).label_names is None
    assert load({"labels": None}).labels is None
    with refused("no label for 1 of 3 images", "00000/img2.png"):
        load({"labels": pairs[:2]})
    labels = ([["a.png", 0.5]], [["a.png", -1]], [["a.png", 10**30]], [[[], 1]], 3)
    for wrong in ({}, [], *({"labels": value} for value in labels)):
        with refused("dataset.json", "correct it"):
            load(wrong)


def test_images_that_are_not_square(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    data = load_folder(tmp_path, (12, 24))
    np.testing.assert_array_equal(data.images, pixels[None, :, 8:32])  # cropped at its centre
    for size in ((24, 12), (6, 30)):
        assert load_folder(tmp_path, size).images.shape == (1, *size, 3)


def test_channels_are_those_of_the_images(tmp_path):
    png(tmp_path / "a.png", GREY)  # stored as RGB, but grey
    Image.fromarray(np.full((4, 6), 1000, np.uint16)).save(tmp_path / "b.png")  # 10 bits
    assert load_images(tmp_path, (4, 6)).images[0, 0, 0].tolist() == [90]
    assert load_images(tmp_path, (4, 6)).images[1, 0, 0].tolist() == [249]
    png(tmp_path / "c.png", RED)
    colour = load_images(tmp_path, (4, 6)).images
    assert colour[:, 0, 0].tolist() == [list(GREY), [249, 249, 249], list(RED)]
    assert load_images(tmp_path, (4, 6), channels=1).images.shape == (3, 4, 6, 1)


def test_npz(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (5, 8, 6, 3), dtype=np.uint8), np.arange(5)[:, None] % 3
    for names in (("images", "labels"), ("x_train", "y_train")):
        arrays = dict(zip(names, (x, y), strict=True))
        np.savez(tmp_path / "a.npz", **arrays, x_test=x)
        data = load_images(tmp_path / "a.npz")
        np.testing.assert_array_equal(data.images, x)
        assert data.labels.tolist() == [0, 1, 2, 0, 1]
    assert load_images(tmp_path / "a.npz", (4, 4), 1).images.shape == (5, 4, 4, 1)
    np.savez(tmp_path / "b.npz", images=np.array([{}], object))
    with refused("b.npz", "not a complete .npz"):
        load_images(tmp_path / "b.npz")


def test_what_is_no_data_is_refused(tmp_path):
    with refused("nowhere does not exist", "mnist, fashion-mnist, kmnist, cifar10", ".npz"):
        load_images(tmp_path / "nowhere")
    (tmp_path / "a.txt").write_text("text")
    with refused("a.txt is neither", ".zip"):
        load_images(tmp_path / "a.txt")
    png(tmp_path / "all" / "a.png", RED)
    archive = zipped(tmp_path / "all", tmp_path / "a.zip")
    archive.write_bytes(archive.read_bytes()[10:])
    with refused("a.zip"):
        load_images(archive)


def test_sizes():
    assert (parse_size("64"), parse_size("48x96"), parse_size(32)) == ((64, 64), (48, 96), (32, 32))
    assert (size_option((64, 64)), size_option((48, 96))) == (64, "48x96")
    for text in ("", "x", "48x", "0", "8x0", "-8", "1e3", "4x4x4", "999999"):
        with refused("size"):
            parse_size(text)


def test_what_stands_beside_the_class_folders_of_an_archive(tmp_path):
    for name in ("cat/1.png", "dog/1.png"):
        png(tmp_path / "all" / "photos" / name, RED)
    with zipfile.ZipFile(zipped(tmp_path / "all", tmp_path / "a.zip"), "a") as archive:
        archive.writestr("photos/README.txt", "text")
    assert load_images(tmp_path / "a.zip", (4, 6)).label_names == ("cat", "dog")
    labels = {"labels": [["cat/1.png", 3], ["dog/1.png", 5]]}
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as archive:
        archive.writestr("photos/dataset.json", json.dumps(labels))
    assert load_images(tmp_path / "a.zip", (4, 6)).labels.tolist() == [3, 5]


def test_dataset_json_beside_the_images_in_one_folder_of_an_archive(tmp_path):
    png(tmp_path / "all" / "photos" / "1.png", RED)
    with zipfile.ZipFile(zipped(tmp_path / "all", tmp_path / "a.zip"), "a") as archive:
        archive.writestr("photos/dataset.json", json.dumps({"labels": [["1.png", 3]]}))
    assert load_images(tmp_path / "a.zip", (4, 6)).labels.tolist() == [3]


def test_an_archive_with_an_invalid_name_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("é.png", "")  # its name is marked as UTF-8
    content = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(content.replace("é".encode(), b"\xff\xff"))
    with refused("a.zip", "not a complete .zip archive"):
        load_images(tmp_path / "a.zip", (4, 6))


def test_too_little_memory_is_not_an_unreadable_image(tmp_path, monkeypatch):
    def fail(*_):
        raise MemoryError

    png(tmp_path / "a.png", RED)
    monkeypatch.setattr(decode, "fit_image", fail)
    with pytest.raises(MemoryError):
        load_folder(tmp_path, (4, 6))
