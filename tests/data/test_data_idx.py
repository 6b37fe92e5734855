"""IDX files: reading, and the error message for every kind of damage."""

import gzip
import tracemalloc

import numpy as np
import pytest

from minddpm.data.idx import MAX_VALUES, read_idx
from minddpm.errors import InputError
from refusals import refused


def idx(array):
    sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


ARRAY = np.arange(2 * 3 * 5, dtype=np.uint8).reshape(2, 3, 5)
COMPLETE = idx(ARRAY)


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (2, 3, 5), (1, 2, 3, 4), (300, 2)])
def test_read_idx_returns_what_was_written(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    (tmp_path / "a").write_bytes(idx(array))
    result = read_idx(tmp_path / "a")
    assert result.dtype == np.uint8
    assert result.flags.writeable
    np.testing.assert_array_equal(result, array)


def test_gzip_is_recognised_by_content_not_by_name(tmp_path):
    (tmp_path / "plain.gz").write_bytes(COMPLETE)
    (tmp_path / "zipped").write_bytes(gzip.compress(COMPLETE))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain.gz"), ARRAY)
    np.testing.assert_array_equal(read_idx(str(tmp_path / "zipped")), ARRAY)


@pytest.mark.parametrize(
    ("raw", "wrong", "remedy"),
    [
        (b"", "begins with nothing", "give one of MNIST's"),
        (b"\x00\x00", "begins with 00 00", "give one of MNIST's"),
        (b"<html>not here</html>", "begins with 3c 68 74 6d", "give one of MNIST's"),
        (b"\x00\x00\x0d" + COMPLETE[3:], "type 0x0d, not uint8", "convert the values to uint8"),
        (COMPLETE[:9], "ends within its IDX header, at byte 9", "fetch it again"),
        (bytes([0, 0, 8, 0]), "shape (), which holds no value", "fetch it again"),
        (idx(ARRAY[:0]), "shape (0, 3, 5), which holds no value", "fetch it again"),
        (COMPLETE[:-1], "cut short (its shape (2, 3, 5) needs 30 values, it holds 29)", "again"),
        (COMPLETE + b"\x00", "extra bytes at its end", "fetch it again"),
        # 255 dimensions of 2^32 - 1: the product must not overflow into something small
        (bytes([0, 0, 8, 255]) + b"\xff" * 1020, "values are read", "fetch it again"),
    ],
)
def test_wrong_bytes_are_refused_with_a_remedy(tmp_path, raw, wrong, remedy):
    path = tmp_path / "digits-idx3-ubyte"
    path.write_bytes(raw)
    with pytest.raises(InputError) as caught:
        read_idx(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert wrong in message
    assert remedy in message
    assert "\n" not in message


ZIPPED = gzip.compress(COMPLETE, mtime=0)


@pytest.mark.parametrize(
    "raw",
    [
        ZIPPED[:-12],  # end missing
        ZIPPED[:5],  # header incomplete
        ZIPPED[:-8] + b"\x00\x00\x00\x00" + ZIPPED[-4:],  # wrong checksum
        ZIPPED[:10] + b"\xff" * 12 + ZIPPED[22:],  # no deflate stream
        ZIPPED + b"something",
    ],
)
def test_a_damaged_gzip_file_is_refused(tmp_path, raw):
    path = tmp_path / "digits.gz"
    path.write_bytes(raw)
    with pytest.raises(InputError, match=r"digits\.gz is a damaged gzip file .*fetch it again"):
        read_idx(path)


def test_every_truncation_of_a_gzip_file_is_noticed(tmp_path):
    for end in range(2, len(ZIPPED)):
        (tmp_path / "cut").write_bytes(ZIPPED[:end])
        with pytest.raises(InputError, match="cut is a damaged gzip file"):
            read_idx(tmp_path / "cut")


def test_a_small_gzip_file_that_holds_far_more_than_it_states_is_not_decompressed(tmp_path):
    (tmp_path / "bomb").write_bytes(gzip.compress(COMPLETE + bytes(2**26), 1))
    tracemalloc.start()
    with refused("bomb", "needs 30 values, it holds more"):
        read_idx(tmp_path / "bomb")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**22


def test_a_header_that_states_too_many_values_is_refused_before_they_are_read(tmp_path):
    (tmp_path / "large").write_bytes(bytes([0, 0, 8, 1]) + (MAX_VALUES + 1).to_bytes(4, "big"))
    with refused("large", f"({MAX_VALUES + 1},)", f"at most {MAX_VALUES:,} values"):
        read_idx(tmp_path / "large")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere cannot be read \(No such file.*check the path"):
        read_idx(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"cannot be read \(.*check the path"):
        read_idx(tmp_path)
