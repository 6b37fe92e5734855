"""Class folders: their order and names, links, classes without a readable image."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from minddpm.data import ImageDataset, load_folder
from minddpm.data.class_names import listing, natural_order, printable
from refusals import refused


def add(folder, value, name="1.png"):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("L", (2, 2), value).save(folder / name)


def values(dataset):
    """Return {class name: [grey values of its images]}."""
    grey = dataset.images[:, 0, 0, 0].tolist()
    pairs = list(zip(dataset.labels.tolist(), grey, strict=True))
    return {
        name: [v for label, v in pairs if label == i] for i, name in enumerate(dataset.label_names)
    }


def test_classes_have_natural_order(tmp_path):
    for name in ("10", "2", "1", "01", "b", "a10", "a2"):
        add(tmp_path / name, len(name))
    names = load_folder(tmp_path, 2, 1).label_names
    assert names == ("01", "1", "2", "10", "a2", "a10", "b")


@given(st.lists(st.text("ab01²٣._-", max_size=4), unique=True))
def test_natural_order_depends_on_the_names_alone(names):
    assert natural_order(names) == natural_order(names[::-1])
    assert sorted(natural_order(names)) == sorted(names)
    numbers = [name for name in natural_order(names) if name.isascii() and name.isdecimal()]
    assert [int(n) for n in numbers] == sorted(map(int, numbers))


def test_the_images_stay_in_the_order_of_their_paths(tmp_path):
    """Older runs resume from folders whose classes had no numbers."""
    for name in ("1", "2", "10"):
        add(tmp_path / name, int(name))
    dataset = load_folder(tmp_path, 2, 1)
    assert dataset.images[:, 0, 0, 0].tolist() == [1, 10, 2]
    assert dataset.labels.tolist() == [0, 2, 1]


def test_a_class_without_a_readable_image_keeps_its_number(tmp_path, capsys):
    add(tmp_path / "a", 1)
    add(tmp_path / "c", 3)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "1.png").write_bytes(b"damaged")
    dataset = load_folder(tmp_path, 2, 1)
    assert values(dataset) == {"a": [1], "b": [], "c": [3]}
    assert dataset.num_classes == 3
    assert "no readable image of the classes b; they keep" in capsys.readouterr().err
    assert dataset.describe_classes() == "3 classes: a (1), b (0), c (1)"


def test_images_outside_class_folders_mean_no_classes(tmp_path):
    add(tmp_path / "a", 1)
    add(tmp_path, 2)
    dataset = load_folder(tmp_path, 2, 1)
    assert (dataset.labels, dataset.label_names, dataset.num_classes) == (None, None, 0)


@pytest.mark.skipif(os.name != "posix", reason="any bytes are a name on POSIX only")
def test_any_name_can_be_printed_and_stored(tmp_path):
    for name in (b"caf\xe9", "café".encode(), b"two\nlines"):
        add(tmp_path / os.fsdecode(name), 1)
    names = load_folder(tmp_path, 2, 1).label_names
    assert names == ("café", r"caf\udce9", r"two\nlines")
    "".join(names).encode()  # utf-8, as json files and terminals want it
    assert printable("plain name é猫") == "plain name é猫"


def test_a_long_list_is_shortened():
    assert listing(["a", "b"]) == "a, b"
    long = listing([str(i) for i in range(1000)])
    assert long == "0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... (1000 in all), 999"


# --- links ---------------------------------------------------------------------------------------


def test_linked_class_folders_and_files_are_followed(tmp_path):
    add(tmp_path / "elsewhere" / "dogs", 200)
    pics = tmp_path / "pics"
    add(pics / "cats", 10)
    (pics / "cats" / "2.png").symlink_to(tmp_path / "elsewhere" / "dogs" / "1.png")
    for name in ("dogs", "hounds"):  # one folder as two classes
        (pics / name).symlink_to(tmp_path / "elsewhere" / "dogs")
    expected = {"cats": [10, 200], "dogs": [200], "hounds": [200]}
    assert values(load_folder(pics, 2, 1)) == expected
    (tmp_path / "link").symlink_to(pics)
    assert values(load_folder(tmp_path / "link", 2, 1)) == expected


def test_loops_of_links_end(tmp_path, capsys):
    pics = tmp_path / "pics"
    add(pics / "a", 1)
    add(pics / "b", 2)
    (pics / "a" / "up").symlink_to(pics)
    (pics / "a" / "root").symlink_to("/")
    (pics / "a" / "itself").symlink_to(pics / "a" / "itself")
    assert values(load_folder(pics, 2, 1)) == {"a": [1], "b": [2]}
    stderr = capsys.readouterr().err
    for name in ("up", "root"):
        assert f"{pics / 'a' / name}: a link to a folder that contains it" in stderr
        (pics / "a" / name).unlink()
    add(tmp_path / "elsewhere", 3)
    add(tmp_path / "elsewhere" / "c", 4)
    (tmp_path / "elsewhere" / "c" / "up").symlink_to(tmp_path / "elsewhere")
    (pics / "c").symlink_to(tmp_path / "elsewhere" / "c")
    assert values(load_folder(pics, 2, 1)) == {"a": [1], "b": [2], "c": [4]}
    (pics / "c").unlink()
    (pics / "a" / "to_b").symlink_to(pics / "b")
    (pics / "b" / "to_a").symlink_to(pics / "a")
    assert values(load_folder(pics, 2, 1)) == {"a": [1, 2], "b": [2, 1]}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_a_folder_without_access_is_named(tmp_path, capsys):
    add(tmp_path / "a", 1)
    add(tmp_path / "b", 2)
    (tmp_path / "b").chmod(0o000)
    assert values(load_folder(tmp_path, 2, 1)) == {"a": [1], "b": []}
    assert "b: not a readable folder, skipped" in capsys.readouterr().err
    (tmp_path / "b").chmod(0o700)


# --- the data set --------------------------------------------------------------------------------


IMAGES, LABELS = np.zeros((3, 2, 2, 1), np.uint8), np.array([0, 1, 0])


@pytest.mark.parametrize("names", [("a",), ("a", "a")])
def test_names_that_do_not_fit_the_labels_are_refused(names):
    with refused("label_names", "labels up to 1", "a name of its own"):
        ImageDataset(IMAGES, LABELS, "here", names)
    with refused("no labels", "give both"):
        ImageDataset(IMAGES, None, "here", names)


def test_the_identity_covers_labels_and_names():
    identity = ImageDataset(IMAGES, LABELS, "here", ("a", "b")).identity()
    assert identity["label_names"] == ["a", "b"]
    for labels, names in ((1 - LABELS, ("a", "b")), (LABELS, ("b", "a"))):
        other = ImageDataset(IMAGES, labels, "here", names).identity()
        assert other != identity
        assert other["checksum"] == identity["checksum"]  # of the images
    unlabelled = ImageDataset(IMAGES, None, "here").identity()
    assert unlabelled == {k: identity[k] for k in ("source", "images", "checksum")}
