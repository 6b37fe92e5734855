"""A model that cannot be opened or saved: one sentence says why, and no file changes."""

import pickle

import numpy as np
import pytest
from builders import random_unet, read_files
from safetensors.numpy import load_file, save_file
from saved_files import WEIGHTS, change_json, refused_and_untouched

from minddpm import UNet2D
from refusals import refused


def test_a_missing_directory_is_refused(tmp_path):
    with refused_and_untouched(tmp_path, tmp_path / "no", "not a directory", "save_pretrained"):
        UNet2D.from_pretrained(tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_a_file_instead_of_a_directory_is_refused(saved):
    with refused_and_untouched(saved, saved / WEIGHTS, "not a directory"):
        UNet2D.from_pretrained(saved / WEIGHTS)


def test_an_empty_directory_is_refused(tmp_path):
    with refused(tmp_path, "holds no model", "give a run directory"):
        UNet2D.from_pretrained(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_weights_is_refused(saved):
    (saved / WEIGHTS).unlink()
    with refused_and_untouched(saved, saved, WEIGHTS, "copy the weights"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "pytorch_model.bin"])
def test_a_pickle_is_refused_and_not_opened(saved, name):
    """Opening a pickle runs its code; this one would leave a file behind."""
    (saved / WEIGHTS).unlink()

    class Harm:
        def __reduce__(self):
            return (open, (str(saved / "harm"), "w"))

    (saved / name).write_bytes(pickle.dumps(Harm()))
    with refused_and_untouched(saved, saved / name, "pickle", "safe_serialization=True"):
        UNet2D.from_pretrained(saved)
    assert not (saved / "harm").exists()


PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + bytes(100)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: b"",
        lambda raw: raw[:4],
        lambda raw: raw[:100],
        lambda raw: raw[:-1],
        lambda raw: raw[: len(raw) // 2],
        lambda raw: raw + b"\0",
        lambda raw: b"epsilon, x0 or v?\n" * 50,
        lambda raw: PNG,
        lambda raw: pickle.dumps({"weight": 1.0}),
        lambda raw: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    ],
    ids=["empty", "4 B", "100 B", "last byte", "half", "longer", "text", "PNG", "pickle", "LFS"],
)
def test_a_damaged_safetensors_file_is_refused(saved, damage):
    (saved / WEIGHTS).write_bytes(damage((saved / WEIGHTS).read_bytes()))
    with refused_and_untouched(saved, saved / WEIGHTS, "truncated", "copy it again"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize(
    ("own_layers", "file_layers", "word"),
    [(2, 1, "has no tensor 'down_blocks.0"), (1, 2, "that the model has not")],
)
def test_weights_of_another_architecture_are_refused(saved, own_layers, file_layers, word):
    """Other blocks have other names: some are missing, or some are left over."""
    random_unet(layers_per_block=file_layers).save_pretrained(saved)
    change_json(saved / "config.json", layers_per_block=own_layers)
    with refused_and_untouched(saved, saved / WEIGHTS, word, "another architecture"):
        UNet2D.from_pretrained(saved)


def test_weights_of_another_shape_are_refused(saved):
    change_json(saved / "config.json", block_out_channels=[8, 32])
    words = (saved / WEIGHTS, "has shape", "the model expects", "another architecture")
    with refused_and_untouched(saved, *words):
        UNet2D.from_pretrained(saved)


def test_integer_weights_are_refused(saved):
    tensors = load_file(saved / WEIGHTS)
    tensors["conv_out.bias"] = np.zeros(1, np.int32)
    save_file(tensors, saved / WEIGHTS)
    with refused_and_untouched(saved, saved / WEIGHTS, "'conv_out.bias'", "I32"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize("text", ["", "{", "sample_size: 8", "[1, 2]", "8", PNG.decode("latin-1")])
def test_a_config_that_is_no_json_object_is_refused(saved, text):
    (saved / "config.json").write_text(text, encoding="latin-1")
    with refused_and_untouched(saved, saved / "config.json", "JSON", "copy it again"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize("kind", ["UNet2DConditionModel", "AutoencoderKL", None, ["UNet2DModel"]])
def test_a_config_of_another_class_is_refused(saved, kind):
    change_json(saved / "config.json", _class_name=kind)
    with refused_and_untouched(saved, saved / "config.json", "UNet2DModel only"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"down_block_types": ["DownBlock2D", "SkipDownBlock2D"]}, ["'SkipDownBlock2D'", "AttnDo"]),
        ({"up_block_types": ["ResnetUpsampleBlock2D", "UpBlock2D"]}, ["unsupported", "AttnUp"]),
        ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, ["not supported", "UNetMidBlock2D"]),
        ({"time_embedding_type": "fourier"}, ["'fourier'", "positional"]),
        ({"class_embed_type": "timestep"}, ["class_embed_type='timestep'", "None"]),
        ({"act_fn": "gelu"}, ["act_fn='gelu'", "silu"]),
        ({"downsample_padding": 2}, ["downsample_padding=2", "0 or 1"]),
        ({"cross_attention_dim": 768}, ["key 'cross_attention_dim'", "UNet2DModel"]),
        ({"block_out_channels": [8, 16, 16]}, ["block_out_channels (3)", "same length"]),
        ({"norm_num_groups": 3}, ["norm_num_groups=3", "divisor"]),
    ],
    ids=lambda value: next(iter(value)),
)
def test_a_config_that_is_not_supported_is_refused(saved, changes, words):
    change_json(saved / "config.json", **changes)
    with refused_and_untouched(saved, saved / "config.json", *words):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize(
    "changes",
    [
        {"norm_num_groups": 0},
        {"norm_num_groups": None},
        {"attn_norm_num_groups": 5},
        {"block_out_channels": "8, 16"},
        {"block_out_channels": None},
        {"block_out_channels": []},
        {"layers_per_block": "two"},
        {"layers_per_block": [1, 1]},
        {"down_block_types": None},
        {"in_channels": None},
        {"sample_size": "eight"},
        {"sample_size": [8, 8, 8]},
        {"attention_head_dim": [8, 8]},
        {"dropout": "none"},
        {"_label_names": "ab", "num_class_embeds": 3},
        {"_label_names": ["a", 1], "num_class_embeds": 3},
        {"_label_names": ["a", "\x1b[2J"], "num_class_embeds": 3},
        {"_label_names": ["a", "a"], "num_class_embeds": 3},
        {"_label_names": ["a"], "num_class_embeds": 3},
        {"_label_names": ["a"]},
    ],
    ids=lambda value: "-".join(f"{k}={v}" for k, v in value.items()),
)
def test_a_config_value_of_another_type_is_refused(saved, changes):
    change_json(saved / "config.json", **changes)
    with refused_and_untouched(saved, saved / "config.json", next(iter(changes))):
        UNet2D.from_pretrained(saved)


def test_a_failed_save_leaves_the_model_that_was_there(saved, monkeypatch):
    """The disk fills up while saving: neither the old file nor its name is lost."""
    before = read_files(saved)

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with refused(saved / WEIGHTS, "No space left", "free some space"):
        random_unet(seed=1).save_pretrained(saved)
    assert read_files(saved) == before


def test_saving_into_a_file_is_refused(saved):
    with refused_and_untouched(saved, "could not be written", "choose a folder"):
        random_unet().save_pretrained(saved / "config.json")
