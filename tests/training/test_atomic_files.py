"""atomic_write: a file is complete or absent."""

import pytest

from minddpm.errors import InputError
from minddpm.storage.atomic import atomic_write


def test_writes_into_a_new_folder_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    with atomic_write(path) as file:
        file.write(b"abc")
        assert not path.exists()
    assert path.read_bytes() == b"abc"
    assert list(path.parent.iterdir()) == [path]


def write(path, failure=None):
    with atomic_write(path) as file:
        file.write(b"half of it")
        if failure:
            raise failure


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_keeps_the_previous_file(tmp_path, failure):
    path = tmp_path / "a.bin"
    path.write_bytes(b"previous")
    with pytest.raises(failure):
        write(path, failure)
    assert path.read_bytes() == b"previous"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk(tmp_path):
    path = tmp_path / "a.bin"
    sentence = r"a\.bin could not be written \(No space left on device\): free some space"
    with pytest.raises(InputError, match=sentence):
        write(path, OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    sentence = r"a\.bin could not be written .*choose a folder"
    with pytest.raises(InputError, match=sentence):
        write(tmp_path / "file" / "a.bin")


def test_a_folder_where_the_file_should_be(tmp_path):
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(InputError, match=r"a\.bin could not be written"):
        write(tmp_path / "a.bin")
    assert list(tmp_path.iterdir()) == [tmp_path / "a.bin"]
