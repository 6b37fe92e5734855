"""A directory from a stranger: one sentence, before anything large is allocated."""

import json
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from saved_files import WEIGHTS, change_json, refused_and_untouched

from minddpm import UNet2D
from minddpm.storage import json_files, memory
from minddpm.storage.tensors import read_tensors
from refusals import refused


@contextmanager
def little_memory(limit=50e6):
    """Check that the block never holds more than `limit` bytes."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < limit


def one_tensor(path, shape, end, length=None, data=16, dtype="F32"):
    header = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}
    text = json.dumps(header).encode()
    length = len(text) if length is None else length
    path.write_bytes(length.to_bytes(8, "little") + text + bytes(data))


@pytest.mark.parametrize(
    ("shape", "end", "length"),
    [
        ([10**12], 4 * 10**12, None),
        ([10**12], 16, None),
        ([2**32, 2**32], 16, None),
        ([4], 20, None),
        ([-4], 16, None),
        ([4], 16, 2**62),
        ([4], 16, 200 * 2**20),
        ([4], 16, 10**3),
    ],
)
def test_a_header_that_claims_more_than_the_file_is_refused(saved, shape, end, length):
    one_tensor(saved / WEIGHTS, shape, end, length)
    with little_memory(), refused_and_untouched(saved, saved / WEIGHTS, "copy it again"):
        UNet2D.from_pretrained(saved)


def test_a_sound_header_of_the_same_kind_is_read(tmp_path):
    one_tensor(tmp_path / "a", [2, 2], 16)
    np.testing.assert_array_equal(read_tensors(tmp_path / "a")[0]["a"], np.zeros((2, 2)))


def test_other_number_types_are_refused(tmp_path):
    one_tensor(tmp_path / "a", [16], 16, dtype="F8_E4M3")
    with refused(tmp_path / "a", "'a'", "F8_E4M3", "float32"):
        read_tensors(tmp_path / "a")


def test_weights_larger_than_the_memory_are_refused(tmp_path):
    """A sparse file takes no space on the disk; this one has 2^43 bytes of zeros."""
    one_tensor(tmp_path / "a", [2**41], 2**43, data=0)
    with open(tmp_path / "a", "r+b") as file:
        try:
            file.truncate(file.seek(0, 2) + 2**43)
        except OSError:
            pytest.skip("the file system has no files of this size")
    with little_memory(), refused(tmp_path / "a", "GB of memory", "smaller model"):
        read_tensors(tmp_path / "a")


def test_the_machines_memory_is_enough_for_a_small_file(tmp_path):
    memory.check_memory(10**6, tmp_path)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"block_out_channels": [8, 10**9]}, "block_out_channels"),
        ({"block_out_channels": [8, 2**16]}, "far larger model"),
        ({"layers_per_block": 10**6}, "layers_per_block"),
        ({"layers_per_block": 2**16}, "far larger model"),
        ({"time_embedding_dim": 2**16}, "far larger model"),
        ({"sample_size": 10**9}, "sample_size"),
        ({"in_channels": 10**15}, "in_channels"),
        ({"num_class_embeds": 10**12}, "num_class_embeds"),
        ({"block_out_channels": [[[[8]]]] * 3}, "block_out_channels"),
        (
            {"block_out_channels": [4] * 10**4, "down_block_types": ["DownBlock2D"] * 10**4,
             "up_block_types": ["UpBlock2D"] * 10**4},
            "far larger model",
        ),
        ({"down_block_types": ["x" * 10**5]}, "down_block_types"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value)),
)  # fmt: skip
def test_an_absurd_configuration_is_refused(saved, changes, word):
    change_json(saved / "config.json", **changes)
    with little_memory(), refused_and_untouched(saved, saved / "config.json", word) as _:
        UNet2D.from_pretrained(saved)


def test_a_json_file_of_more_than_the_limit_is_refused(saved):
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(text + " " * json_files.LARGEST)
    with refused_and_untouched(saved, "has more than 16,777,216 bytes"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize("text", ["[" * 10**5, '{"a":' * 10**5, "9" * 10**5])
def test_a_json_file_nested_too_deep_is_refused(saved, text):
    (saved / "config.json").write_text(text)
    with refused_and_untouched(saved, saved / "config.json", "JSON", "copy it again"):
        UNet2D.from_pretrained(saved)
