"""A saved model comes back bit for bit, and lies on disk as diffusers and PyTorch expect."""

import json

import numpy as np
import pytest
from builders import random_unet, read_files
from safetensors.numpy import load_file, save_file
from saved_files import WEIGHTS, check_same_model, weights

from minddpm import GaussianDiffusion, UNet2D
from minddpm.diffusion.schedules import linear
from minddpm.pipeline import save_pipeline


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"sample_size": (8, 16), "in_channels": 3, "out_channels": 6},
        {"attention_head_dim": None, "resnet_time_scale_shift": "scale_shift"},
        {"num_class_embeds": 10, "mid_block_type": None, "act_fn": "swish"},
        {"num_class_embeds": 3, "_label_names": ("café", "猫")},
    ],
)
def test_a_saved_model_comes_back_bit_for_bit(any_backend, tmp_path, changes):
    unet = random_unet(**changes)
    unet.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["_class_name"] == "UNet2DModel"
    back = UNet2D.from_pretrained(tmp_path)
    back.config["sample_size"] = unet.config["sample_size"]  # JSON has lists, but no tuples
    check_same_model(unet, back)


def test_a_model_that_comes_back_gives_the_same_output(tmp_path):
    unet = random_unet()
    unet.save_pretrained(tmp_path)
    x = np.random.default_rng(0).standard_normal((2, 8, 8, 1)).astype(np.float32)
    t = np.array([3, 500])
    np.testing.assert_array_equal(
        unet(x, t).numpy(), UNet2D.from_pretrained(str(tmp_path))(x, t).numpy()
    )


def test_a_model_comes_back_without_dropout(tmp_path):
    random_unet(dropout=0.5).train().save_pretrained(tmp_path)
    unet = UNet2D.from_pretrained(tmp_path)
    assert not any(module.training for module in unet.modules())


def test_a_pipeline_directory_is_opened_like_a_model_directory(tmp_path):
    unet = random_unet()
    save_pipeline(unet, GaussianDiffusion(linear(50)), tmp_path)
    check_same_model(unet, UNet2D.from_pretrained(tmp_path))
    check_same_model(unet, UNet2D.from_pretrained(tmp_path / "unet"))


def test_saving_again_replaces_the_model_and_leaves_no_other_file(saved):
    before = list(read_files(saved))
    other = random_unet(seed=1)
    other.save_pretrained(saved)
    check_same_model(other, UNet2D.from_pretrained(saved))
    assert list(read_files(saved)) == before


def test_weights_lie_in_pytorchs_layout(saved):
    """Convolutions [KH, KW, C_in, C_out] become [C_out, C_in, KH, KW], matrices are transposed."""
    unet, tensors = random_unet(), load_file(saved / WEIGHTS)
    ours = weights(unet)
    for name, array in tensors.items():
        expected = ours[name].T if array.ndim < 4 else np.moveaxis(ours[name], [3, 2], [0, 1])
        np.testing.assert_array_equal(array, expected, err_msg=name)


OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def test_weights_under_the_attentions_old_names_load(saved):
    tensors = load_file(saved / WEIGHTS)
    old = {}
    for name, array in tensors.items():
        for new_name, old_name in OLD_NAMES.items():
            name = name.replace(f".{new_name}.", f".{old_name}.")
        old[name] = array
    assert sum(name not in tensors for name in old) == 8 * 4  # four layers of attention
    save_file(old, saved / WEIGHTS)
    check_same_model(random_unet(), UNet2D.from_pretrained(saved))


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floating_point_weights_load_as_float32(saved, dtype):
    tensors = {name: array.astype(dtype) for name, array in load_file(saved / WEIGHTS).items()}
    save_file(tensors, saved / WEIGHTS)
    loaded, original = weights(UNet2D.from_pretrained(saved)), weights(random_unet())
    for name, array in loaded.items():
        assert array.dtype == np.float32
        rounded = original[name].astype(dtype).astype(np.float32)
        np.testing.assert_array_equal(array, rounded, err_msg=name)


def test_keys_that_an_older_config_lacks_take_their_defaults(saved):
    config = json.loads((saved / "config.json").read_text())
    missing = "_class_name", "_diffusers_version", "dropout", "num_train_timesteps", "freq_shift"
    for key in missing:
        del config[key]
    (saved / "config.json").write_text(json.dumps(config))
    check_same_model(random_unet(), UNet2D.from_pretrained(saved))
