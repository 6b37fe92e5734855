"""A directory from a stranger: one sentence, before anything large is allocated."""

import json
import re
import tracemalloc
from contextlib import contextmanager

import numpy as np
import pytest
from builders import random_unet, tiny_gan, tiny_run, tiny_vae
from saved_files import WEIGHTS, change_json, refused_and_untouched

import minddpm
from minddpm import UNet2D
from minddpm.baselines.classifier.model import Classifier
from minddpm.baselines.model_file import load_model, save_model
from minddpm.generate import generate
from minddpm.storage import json_files, memory
from minddpm.storage.tensors import read_tensors, write_tensors
from minddpm.training.run_directory import STATE
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
    with little_memory(), refused(tmp_path / "a", "GB of memory", "choose something smaller"):
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


@pytest.mark.parametrize(
    ("digits", "word"), [("9" * 21, "an integer of 21 digits"), ("9" * 20, "in_channels")]
)
def test_an_integer_of_more_than_64_bits_is_refused(saved, digits, word):
    text = (saved / "config.json").read_text()
    (saved / "config.json").write_text(re.sub(r'("in_channels": )\d+', r"\g<1>" + digits, text))
    with refused_and_untouched(saved, saved / "config.json", word):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize(
    ("model", "change"),
    [
        (tiny_vae(), {"width": 2**15}),
        (tiny_vae(), {"latent": 10**9}),
        (tiny_gan()[0], {"width": 2**15}),
        (Classifier(), {"widths": [2**15, 2**15]}),
        (Classifier(), {"widths": [8] * 10**5}),
    ],
    ids=["vae", "latent", "generator", "classifier", "levels"],
)
def test_another_model_far_larger_than_its_weights_is_refused(tmp_path, model, change):
    path = tmp_path / "model.safetensors"
    save_model(model, path)
    tensors, about = read_tensors(path)
    config = {**json.loads(about["config"]), **change}
    write_tensors(path, tensors, {**about, "config": json.dumps(config)})
    with little_memory(), refused_and_untouched(tmp_path, path, "far larger model", "give a file"):
        load_model(type(model), path, "a command")


def test_images_that_the_memory_cannot_hold_are_refused():
    """An image: 2^32 pixels x 2 skips x 8 channels x 4 bytes = 275 GB."""
    unet = random_unet(sample_size=2**16)
    diffusion = minddpm.GaussianDiffusion(minddpm.schedules.linear(40))
    with little_memory(), refused("64 images of 65536 x 65536", "17592.2 GB", "something smaller"):
        generate((unet, diffusion), 100)


def test_training_does_not_write_through_a_link(tmp_path):
    """A stranger's run whose `unet` leads to a folder of the user."""
    tiny_run(tmp_path / "run", steps=2).train(progress=False)
    (tmp_path / "run" / "unet").rename(tmp_path / "mine")
    (tmp_path / "run" / "unet").symlink_to(tmp_path / "mine")
    with refused_and_untouched(tmp_path, tmp_path / "run" / "unet", "symbolic link"):
        tiny_run(tmp_path / "run", steps=3).resume()


def test_training_replaces_a_linked_file(tmp_path):
    tiny_run(tmp_path / "run", steps=2).train(progress=False)
    for name in ("loss.csv", STATE):
        file = tmp_path / "run" / name
        file.rename(tmp_path / name)
        file.symlink_to(tmp_path / name)
    before = {name: (tmp_path / name).read_bytes() for name in ("loss.csv", STATE)}
    run = tiny_run(tmp_path / "run", steps=3)
    run.resume()
    run.train(progress=False)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
    assert not (tmp_path / "run" / STATE).is_symlink()
