"""IDX files: what is read back, and the sentence for each way in which a file can be wrong."""

import gzip

import numpy as np
import pytest

from minddpm.data.idx import decompress, read_idx, read_idx_bytes
from minddpm.errors import InputError


def idx(array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


ARRAY = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
WHOLE = idx(ARRAY)


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (2, 3, 5), (1, 2, 3, 4), (300, 2)])
def test_read_back(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "a").write_bytes(idx(array))
    got = read_idx(tmp_path / "a")
    assert got.dtype == np.uint8
    assert got.flags.writeable
    np.testing.assert_array_equal(got, array)


def test_the_content_decides_whether_it_is_gzip_not_the_name(tmp_path):
    (tmp_path / "plain.gz").write_bytes(WHOLE)
    (tmp_path / "zipped").write_bytes(gzip.compress(WHOLE))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain.gz"), ARRAY)
    np.testing.assert_array_equal(read_idx(str(tmp_path / "zipped")), ARRAY)


@pytest.mark.parametrize(
    ("raw", "wrong", "remedy"),
    [
        (b"", "begins with nothing", "give one of MNIST's"),
        (b"\x00\x00", "begins with 00 00", "give one of MNIST's"),
        (b"<html>not here</html>", "begins with 3c 68 74 6d", "give one of MNIST's"),
        (b"\x00\x00\x0d" + WHOLE[3:], "type 0x0d, not uint8", "convert the values to uint8"),
        (WHOLE[:9], "ends within its IDX header, at byte 9", "fetch it again"),
        (bytes([0, 0, 8, 0]), "shape (), which holds no value", "fetch it again"),
        (idx(ARRAY[:0]), "shape (0, 3, 5), which holds no value", "fetch it again"),
        (WHOLE[:-1], "cut short (its shape (2, 3, 5) needs 30 values, it holds 29)", "again"),
        (WHOLE + b"\x00", "extra bytes at its end", "fetch it again"),
        # 255 dimensions of 2^32 - 1: the product must not overflow into something small
        (bytes([0, 0, 8, 255]) + b"\xff" * 1020, "cut short", "fetch it again"),
    ],
)
def test_wrong_bytes_are_named_with_a_remedy(tmp_path, raw, wrong, remedy):
    path = tmp_path / "digits-idx3-ubyte"
    path.write_bytes(raw)
    with pytest.raises(InputError) as caught:
        read_idx(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert wrong in message
    assert remedy in message
    assert "\n" not in message


ZIPPED = gzip.compress(WHOLE, mtime=0)


@pytest.mark.parametrize(
    "raw",
    [
        ZIPPED[:-12],  # no end
        ZIPPED[:5],  # no whole header
        ZIPPED[:-8] + b"\x00\x00\x00\x00" + ZIPPED[-4:],  # wrong checksum
        ZIPPED[:10] + b"\xff" * 12 + ZIPPED[22:],  # no deflate stream
        ZIPPED + b"something",
    ],
)
def test_damaged_gzip(tmp_path, raw):
    path = tmp_path / "digits.gz"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"digits\.gz is a damaged gzip file .*fetch it again"):
        read_idx(path)


def test_every_truncation_of_a_gzip_file_is_noticed():
    for end in range(2, len(ZIPPED)):
        with pytest.raises(InputError, match="cut off is a damaged gzip file"):
            decompress(ZIPPED[:end], "cut off")


def test_absent_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"nowhere cannot be read \(No such file.*check the path"):
        read_idx(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"cannot be read \(.*check the path"):
        read_idx(tmp_path)


def test_bytes_are_called_by_the_given_name():
    np.testing.assert_array_equal(read_idx_bytes(WHOLE, "x"), ARRAY)
    with pytest.raises(InputError, match=r"^my bytes is cut short"):
        read_idx_bytes(WHOLE[:-2], "my bytes")
