"""Weights as diffusers writes them on request: half precision, variants, several files."""

import json

import numpy as np
import pytest
from builders import random_unet
from safetensors.numpy import load_file, save_file
from saved_files import WEIGHTS, check_same_model, refused_and_untouched, weights

from minddpm import UNet2D

INDEX = f"{WEIGHTS}.index.json"
NAMES = ("diffusion_pytorch_model-00001-of-00002.safetensors",
         "diffusion_pytorch_model-00002-of-00002.safetensors")  # fmt: skip


def bfloat16_file(tensors):
    """Return the bytes of a safetensors file that has the upper halves of float32 numbers."""
    header, data = {}, b""
    for name, array in tensors.items():
        raw = (array.view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16", "shape": array.shape, "data_offsets": [len(data), len(data + raw)],
        }  # fmt: skip
        data += raw
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_bfloat16_weights_load_as_float32(saved):
    tensors = load_file(saved / WEIGHTS)
    (saved / WEIGHTS).write_bytes(bfloat16_file(tensors))
    for name, array in weights(UNet2D.from_pretrained(saved)).items():
        assert array.dtype == np.float32
        kept = np.sort(np.abs(array), axis=None)
        original = np.sort(np.abs(weights(random_unet())[name]), axis=None)
        assert (kept.view(np.uint32) & 0xFFFF == 0).all()
        np.testing.assert_allclose(kept, original, rtol=2**-7)  # eight significant bits


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
def test_the_only_variant_is_used(saved, variant):
    (saved / WEIGHTS).rename(saved / f"diffusion_pytorch_model.{variant}.safetensors")
    check_same_model(random_unet(), UNet2D.from_pretrained(saved))


def test_the_plain_file_is_preferred_to_a_variant(saved):
    random_unet(seed=1).save_pretrained(saved / "other")
    (saved / "other" / WEIGHTS).rename(saved / "diffusion_pytorch_model.fp16.safetensors")
    check_same_model(random_unet(), UNet2D.from_pretrained(saved))


def test_several_variants_without_a_plain_file_are_refused(saved):
    raw = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).unlink()
    names = [f"diffusion_pytorch_model.{variant}.safetensors" for variant in ("bf16", "fp16")]
    for name in names:
        (saved / name).write_bytes(raw)
    with refused_and_untouched(saved, saved, *names, "keep one"):
        UNet2D.from_pretrained(saved)


def shard(folder, index=INDEX, names=NAMES):
    """Replace the weights by two files and their index."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    place = {name: names[i % 2] for i, name in enumerate(tensors)}
    for file in names:
        save_file({name: tensors[name] for name in tensors if place[name] == file}, folder / file)
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": place}))


@pytest.mark.parametrize("variant", ["", "fp16"])
def test_weights_in_several_files_are_put_together(saved, variant):
    if variant:
        names = [name.replace("model-", f"model.{variant}-") for name in NAMES]
        shard(saved, f"{WEIGHTS}.index.{variant}.json", names)
    else:
        shard(saved)
    check_same_model(random_unet(), UNet2D.from_pretrained(saved))


def test_a_missing_shard_is_refused(saved):
    shard(saved)
    (saved / NAMES[1]).unlink()
    with refused_and_untouched(saved, NAMES[1], "does not exist"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize(
    "name",
    ["../stolen.safetensors", "/etc/stolen.safetensors", "a/b.safetensors", "a\\b.safetensors",
     "stolen.bin", "", None, 3, ["a.safetensors"], "x.safetensors\n"],
)  # fmt: skip
def test_a_shard_outside_the_folder_is_refused(saved, name):
    random_unet().save_pretrained(saved.parent)
    (saved.parent / WEIGHTS).rename(saved.parent / "stolen.safetensors")
    (saved / WEIGHTS).unlink()
    (saved / INDEX).write_text(json.dumps({"weight_map": {"conv_in.bias": name}}))
    with refused_and_untouched(saved, saved / INDEX, repr(name), "same folder"):
        UNet2D.from_pretrained(saved)


@pytest.mark.parametrize("content", [{}, {"weight_map": []}, {"weight_map": {}}])
def test_an_index_without_a_map_is_refused(saved, content):
    (saved / WEIGHTS).unlink()
    (saved / INDEX).write_text(json.dumps(content))
    with refused_and_untouched(saved, saved / INDEX, "weight_map"):
        UNet2D.from_pretrained(saved)


def test_a_link_to_the_weights_is_followed(saved, tmp_path):
    """The cache of Hugging Face has every file in blobs/, and links to them."""
    (tmp_path / "blobs").mkdir()
    for name in (WEIGHTS, "config.json"):
        (saved / name).rename(tmp_path / "blobs" / name)
        (saved / name).symlink_to(f"../blobs/{name}")
    check_same_model(random_unet(), UNet2D.from_pretrained(saved))
